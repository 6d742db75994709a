package redisstore

import (
	"runtime"
	"testing"
	"time"

	"github.com/cacheaside/aside/internal/batch"
)

// What was sent is not kept until the line is empty.
func TestALineForgetsWhatWasSent(t *testing.T) {
	p := &pipeline{lanes: batch.Lanes{PerLane: scriptLane, Busy: 1}}
	freed := make(chan int, 2*maxPipeline)
	for i := range 2 * maxPipeline {
		value := make([]byte, 1000)
		runtime.AddCleanup(&value[0], func(i int) { freed <- i }, i)
		p.line = append(p.line, &scriptCall{ctx: t.Context(), args: []any{value}})
	}
	if n := len(p.next()); n != maxPipeline {
		t.Fatalf("%d go together", n)
	}
	for range maxPipeline {
		runtime.GC()
		select {
		case <-freed:
		case <-time.After(10 * time.Second):
			t.Fatal("what was sent is kept")
		}
	}
	runtime.KeepAlive(p)
}
