package rooms

func (a A) tested() int { return User(a) }
