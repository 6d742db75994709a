// Package below depends on nothing.
package below
