// Package proof has no code but tests: they show that the cache keeps its
// promises, by histories of many processes that are checked afterwards.
//
//	history_test.go     what a history is, and the two rules that it is held to
//	simulation_test.go  thousands of seeded runs in virtual time, with faults
//	loads_test.go       how many loads of a row may run at once in them
//	network_test.go     the simulated network between a process and Redis
package proof
