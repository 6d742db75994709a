package rooms

// User needs a.go, which does not need it but by the generated file and the test.
func User(a A) int { return a.size() + generated }

func unused() {}
