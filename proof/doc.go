// Package proof has only tests. They show that the cache keeps its promises when several
// processes share it and the network, Redis or a process fails: many processes read and write,
// each notes its calls, and the history of all of them is checked afterwards.
//
//	history_test.go      the history of a row, and the two rules that it must obey
//	simulation_test.go   thousands of seeded runs in virtual time, with faults
//	network_test.go      the simulated network between a process and Redis
//	loads_test.go        the number of loads of a row that may run at once in a simulation
//	generations_test.go  the generations of a simulation
//	processes_test.go    operating-system processes on a real Redis that fails
//	worker_test.go       one of these processes
//	engines_test.go      Cluster, Sentinel and TLS on real servers
//	moving_test.go       a Cluster that moves a slot
//	clients_test.go      clients that cannot work with the servers that they have
//	near_test.go         the age of values from a near cache, on real servers
//	costs_test.go        the time that callers lose in an outage
//	soak_test.go         minutes of load, with the build tag soak
//
// They are a module of their own, so that a service that gets the library does not get the
// tools that they need. docs/proof.md describes the method and the results.
package proof
