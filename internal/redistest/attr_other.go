//go:build !linux

package redistest

import "syscall"

// DieWithParent does nothing on this system.
func DieWithParent() *syscall.SysProcAttr { return nil }
