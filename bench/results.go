package main

import (
	"math"
	"slices"
	"sync"
)

// cell identifies one figure. The names are internal; tables.go has the headings.
type cell struct{ table, row, column string }

// results has the samples of a run. Its methods may be called concurrently.
type results struct {
	mu      sync.Mutex
	samples map[cell][]float64 // one for each round
}

func newResults() *results { return &results{samples: make(map[cell][]float64)} }

// add adds a sample. +Inf stands for a call that was given up.
func (r *results) add(table, row, column string, v float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := cell{table, row, column}
	r.samples[c] = append(r.samples[c], v)
}

// median returns the median of a cell's samples. ok is false if it has none.
func (r *results) median(table, row, column string) (v float64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return median(r.samples[cell{table, row, column}])
}

// rows returns the names for which the table has samples.
func (r *results) rows(table string, names []string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := make(map[string]bool)
	for c := range r.samples {
		if c.table == table {
			have[c.row] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !have[name] })
}

func median(samples []float64) (v float64, ok bool) {
	s := slices.Sorted(slices.Values(samples))
	if len(s) == 0 {
		return math.NaN(), false
	}
	low, high := s[(len(s)-1)/2], s[len(s)/2]
	if low == high { // also when both are infinite
		return low, true
	}
	return (low + high) / 2, true
}
