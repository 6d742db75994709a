//go:build !linux

package redistest

import "syscall"

// DieWithParent returns nil: only Linux ends a child with its parent.
func DieWithParent() *syscall.SysProcAttr { return nil }
