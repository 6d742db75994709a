package main

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// sample is the result of one measurement. All figures are for one operation.
type sample struct {
	wall   float64 // µs: the time that passed, divided by the operations done in it
	cpu    float64 // µs of processor time of this process
	redis  float64 // µs of processor time of the server
	allocs float64 // allocations
	bytes  float64 // allocated
}

// measure runs op in goroutines for d, after a warm-up of a fifth of d and a garbage
// collection. Each goroutine has a random source of its own, as a shared one would have them
// wait for each other. redis is nil if there is none.
func measure(ctx context.Context, d time.Duration, goroutines int, redis *server, op func(*rand.Rand) error) (sample, error) {
	if _, _, err := repeat(ctx, d/5, goroutines, op); err != nil {
		return sample{}, err
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, redisCPU := processCPU(), redis.cpu()
	ops, wall, err := repeat(ctx, d, goroutines, op)
	if err != nil {
		return sample{}, err
	}
	cpu, redisCPU = processCPU()-cpu, redis.cpu()-redisCPU
	runtime.ReadMemStats(&after)
	per := func(v float64) float64 { return v / float64(ops) }
	return sample{
		wall:   per(micros(wall)),
		cpu:    per(micros(cpu)),
		redis:  per(micros(redisCPU)),
		allocs: per(float64(after.Mallocs - before.Mallocs)),
		bytes:  per(float64(after.TotalAlloc - before.TotalAlloc)),
	}, nil
}

// repeat runs op in goroutines until d has passed, in each at least once. It returns the
// number of operations and the time that they took, or the first error.
func repeat(ctx context.Context, d time.Duration, goroutines int, op func(*rand.Rand) error) (ops int64, wall time.Duration, err error) {
	var stop atomic.Bool
	var total atomic.Int64
	var first atomic.Pointer[error]
	var wg sync.WaitGroup
	release := context.AfterFunc(ctx, func() { stop.Store(true) })
	defer release()
	began := time.Now()
	timer := time.AfterFunc(d, func() { stop.Store(true) })
	defer timer.Stop()
	for i := range goroutines {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), uint64(began.UnixNano())))
			n := int64(0)
			for done := false; !done; done = stop.Load() {
				if err := op(r); err != nil {
					failed := err // err itself must not escape, which would be an allocation for each operation
					first.CompareAndSwap(nil, &failed)
					stop.Store(true)
					return
				}
				n++
			}
			total.Add(n)
		})
	}
	wg.Wait()
	wall = time.Since(began)
	if p := first.Load(); p != nil {
		return 0, 0, *p
	}
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	return total.Load(), wall, nil
}

// processCPU returns the processor time that this process has used, that of the garbage
// collector included.
func processCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
