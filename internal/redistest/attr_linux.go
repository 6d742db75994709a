package redistest

import "syscall"

// DieWithParent returns attributes with which the kernel ends a server when the test process
// dies, as a killed process does not run its cleanups.
func DieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
