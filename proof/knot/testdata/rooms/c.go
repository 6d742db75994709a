package rooms

const most = 10

// C needs a.go by a field.
func C(x A) int { return x.width }
