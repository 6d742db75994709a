// Package rooms has three files that need each other, one that needs them, and one
// that needs nothing.
package rooms

// A needs b.go by a method.
type A struct{ width int }

func (a A) double() int { return 2 * a.size() }
