package rooms

// B needs c.go by a constant.
func B(width int) bool { return width < most }

func (a A) size() int { return a.width }
