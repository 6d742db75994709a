package redistest

import "syscall"

// dieWithParent ends a server when the test process is killed and can not do it.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
