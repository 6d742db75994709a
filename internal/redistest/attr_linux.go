package redistest

import "syscall"

// DieWithParent ends a server when the test process is killed and cannot do it.
func DieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
