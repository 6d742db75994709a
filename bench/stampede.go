package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// stampedeLoad is the time that the load takes.
	stampedeLoad = 50 * time.Millisecond
	// stampedeCallers is the number of callers in each process.
	stampedeCallers = 100
)

// stampedeJobs returns jobs in which all callers ask for one cold key at once, in one process and
// in several.
func (b *bench) stampedeJobs() []job {
	var jobs []job
	for _, p := range peersOf("stampede", func(p peer) bool { return p.throughRedis() || p.name == "sturdyc" }) {
		for _, processes := range []int{1, b.scale(8, 2)} {
			if p.memory && processes > 1 {
				continue
			}
			jobs = append(jobs, job{
				name: fmt.Sprintf("stampede/%d/%s", processes, p.name),
				once: true,
				run:  func(ctx context.Context, b *bench) error { return b.stampede(ctx, p, processes) },
			})
		}
	}
	return jobs
}

// stampede adds the figures of several stampedes, each on a new key.
func (b *bench) stampede(ctx context.Context, p peer, processes int) error {
	crowd, err := b.startCrowd(ctx, p, processes)
	defer func() { crowd.stop(); _ = b.scratch.flush(ctx) }()
	if err != nil {
		return err
	}
	table := "stampede/one"
	if processes > 1 {
		table = "stampede/many"
	}
	for i := range b.scale(20, 2) {
		found, err := crowd.ask(idOf(int64(i)))
		if err != nil {
			return err
		}
		for column, v := range found {
			b.results.add(table, p.name, column, v)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// crowd is a number of processes, each with a proxy that counts its commands.
type crowd struct {
	processes []*process
	proxies   []*proxy
}

// startCrowd starts processes that have opened p and are connected. Call stop also after an error.
func (b *bench) startCrowd(ctx context.Context, p peer, processes int) (*crowd, error) {
	c := &crowd{}
	for i := range processes {
		px, err := startProxy(b.scratch.addr, 0)
		if err != nil {
			return c, err
		}
		c.proxies = append(c.proxies, px)
		w, err := startProcess(ctx)
		if err != nil {
			return c, err
		}
		c.processes = append(c.processes, w)
		if _, err := w.ask(order{Peer: p.name, Addr: px.addr, Prefix: "crowd", ID: fmt.Sprintf("first%d", i)}); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c *crowd) stop() {
	for _, p := range c.processes {
		p.stop()
	}
	for _, p := range c.proxies {
		p.close()
	}
}

// ask lets all callers ask for id at the same time, and returns the figures by column: the number
// of loads, the times from the end of the first load until callers had the value, and the
// commands of a process without a load.
func (c *crowd) ask(id string) (map[string]float64, error) {
	before := make([]int64, len(c.proxies))
	for i, p := range c.proxies {
		before[i] = p.commands.Load()
	}
	at := time.Now().Add(20 * time.Millisecond)
	answers := make([]answer, len(c.processes))
	errs := make([]error, len(c.processes))
	var wg sync.WaitGroup
	for i, p := range c.processes {
		wg.Go(func() {
			answers[i], errs[i] = p.ask(order{ID: id, Callers: stampedeCallers, Load: stampedeLoad, At: at})
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	time.Sleep(10 * time.Millisecond) // for commands from the background
	var ends, returns []time.Time
	failed, waiting, commands := 0, 0, int64(0)
	for i, a := range answers {
		ends, returns, failed = append(ends, a.Loaded...), append(returns, a.Returns...), failed+a.Failed
		if len(a.Loaded) == 0 {
			waiting++
			commands += c.proxies[i].commands.Load() - before[i]
		}
	}
	if len(ends) == 0 {
		return nil, fmt.Errorf("no process loaded %s", id)
	}
	first := slices.MinFunc(ends, time.Time.Compare)
	late := make([]float64, len(returns))
	for i, r := range returns {
		late[i] = millis(r.Sub(first))
	}
	found := map[string]float64{"loads": float64(len(ends)), "failed": float64(failed), "worst": slices.Max(late)}
	found["median"], _ = median(late)
	if waiting > 0 {
		found["commands"] = float64(commands) / float64(waiting)
	}
	return found, nil
}
