package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

func isWorker() bool                 { return false }
func work(io.Reader, io.Writer)      {}
func (b *bench) missJobs() []job     { return nil }
func (b *bench) writeJobs() []job    { return nil }
func (b *bench) stampedeJobs() []job { return nil }
func (b *bench) staleJobs() []job    { return nil }
func (b *bench) troubleJobs() []job  { return nil }
func (b *bench) report(ctx context.Context, took time.Duration, args []string) error {
	for c, s := range b.results.samples {
		m, _ := median(s)
		fmt.Printf("%s|%s|%s %.3f\n", c.table, c.row, c.column, m)
	}
	return nil
}
