package breaker_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/internal/breaker"
	"github.com/cacheaside/aside/internal/logtest"
)

var errDown = errors.New("down")

// server is a node that a breaker stands before.
type server struct {
	*breaker.Breaker
	up     atomic.Bool // it answers probes
	probes atomic.Int32
	log    logtest.Buffer
}

// newServer returns one that does not answer, with a breaker that change may change. The
// breaker ends with the test.
func newServer(t *testing.T, change func(*breaker.Options)) *server {
	s := &server{}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	o := breaker.Options{
		Does: "answer", Log: slog.New(slog.NewTextHandler(&s.log, nil)), Stop: ctx,
		Probe: func() error {
			s.probes.Add(1)
			if s.up.Load() {
				return nil
			}
			return errDown
		},
		Go: func(work func()) bool { go work(); return true },
	}
	if change != nil {
		change(&o)
	}
	s.Breaker = breaker.New(o)
	return s
}

func TestBreaker_OpensAfterFailures(t *testing.T) {
	t.Parallel()
	const (
		o = breaker.Ordinary
		h = breaker.Hasty
		s = -1 // a success
	)
	for _, test := range []struct {
		name     string
		commands []int32
		open     bool
	}{
		{"two ordinary failures", []int32{o, o}, false},
		{"three ordinary failures", []int32{o, o, o}, true},
		{"a success between them", []int32{o, o, s, o, o}, false},
		{"eleven hasty failures", []int32{h, h, h, h, h, h, h, h, h, h, h}, false},
		{"twelve hasty failures", []int32{h, h, h, h, h, h, h, h, h, h, h, h}, true},
		{"two ordinary failures and hasty ones", []int32{o, h, o, h, h, h}, true},
		{"failures that say nothing", []int32{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, false},
		{"one that says all", []int32{breaker.Opens}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newServer(t, nil)
				for _, weight := range test.commands {
					if weight == s {
						b.Success()
					} else {
						b.Failure(errDown, weight)
					}
				}
				if b.IsOpen() != test.open {
					t.Errorf("got open %v, want %v", b.IsOpen(), test.open)
				}
			})
		})
	}
}

// An open breaker probes alone, until the node answers. It then is as a new one.
func TestBreaker_Closes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newServer(t, nil)
		for range 20 {
			b.Failure(errDown, breaker.Ordinary)
		}
		time.Sleep(time.Second - time.Millisecond)
		if n := b.probes.Load(); n != 4 || !b.IsOpen() {
			t.Errorf("got %d probes in a second, open %v, want 4, true", n, b.IsOpen())
		}
		b.up.Store(true)
		time.Sleep(250 * time.Millisecond)
		synctest.Wait()
		if b.IsOpen() || b.HasFailed() {
			t.Errorf("got open %v, failures %v when the node answers, want false, false", b.IsOpen(), b.HasFailed())
		}
		n := b.probes.Load()
		time.Sleep(time.Minute)
		if b.probes.Load() != n {
			t.Errorf("got %d probes of a node that answers, want none", b.probes.Load()-n)
		}
		b.Failure(errDown, 2*breaker.Ordinary)
		if b.IsOpen() {
			t.Error("got a breaker that opens after two failures, as it remembers those before, want it closed")
		}
		if text := b.log.String(); strings.Count(text, "does not answer") != 1 || strings.Count(text, "answers again") != 1 {
			t.Errorf("got this log, want one line that it opens and one that it closes:\n%s", text)
		}
	})
}

func TestBreaker_StopEndsProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stop, cancel := context.WithCancel(t.Context())
		b := newServer(t, func(o *breaker.Options) { o.Stop = stop })
		b.Failure(errDown, breaker.Opens)
		synctest.Wait()
		cancel()
		synctest.Wait()
		if n := b.probes.Load(); n != 1 {
			t.Errorf("got %d probes, want 1", n)
		}
		other := newServer(t, func(o *breaker.Options) { o.Stop = stop })
		other.Failure(errDown, breaker.Opens)
		synctest.Wait()
		if other.IsOpen() || other.probes.Load() != 0 {
			t.Error("got a breaker that opens after it was stopped, want it closed")
		}
	})
}

// A node is silent when several commands have waited for longer than a while, and a
// probe has had time to find out that it answers nothing.
func TestBreaker_Silence(t *testing.T) {
	t.Parallel()
	const silence = 90 * time.Millisecond
	for _, test := range []struct {
		name    string
		waiting int                                   // commands on their way from the beginning
		during  func(s *server, after time.Duration)  // at each hundredth of a second
		change  func(o *breaker.Options, s time.Time) // s is when they were sent
		open    bool
	}{
		{name: "four commands wait", waiting: 4, open: true},
		{name: "three commands wait", waiting: 3},
		{name: "one has gone", waiting: 4, during: func(s *server, after time.Duration) {
			if after == 30*time.Millisecond {
				s.Over(time.Now(), false)
			}
		}},
		{name: "it answers now and then", waiting: 4, during: func(s *server, after time.Duration) { s.Heard(time.Now()) }},
		{name: "it answers probes", waiting: 4, during: func(s *server, after time.Duration) { s.up.Store(true) }},
		{name: "they have waited for a connection", waiting: 4, change: func(o *breaker.Options, _ time.Time) {
			o.Connected = func() int64 { return time.Now().UnixNano() }
		}},
		{name: "they had a connection from the beginning", waiting: 4, open: true, change: func(o *breaker.Options, sent time.Time) {
			o.Connected = func() int64 { return sent.UnixNano() }
		}},
		{name: "it may be silent", waiting: 4, change: func(o *breaker.Options, _ time.Time) { o.Silence = 0 }},
		{name: "the fourth has only just come", waiting: 4, during: func(s *server, after time.Duration) {
			switch after {
			case 60 * time.Millisecond: // a probe is on its way, and nothing has answered
				s.Over(time.Now(), false)
			case 170 * time.Millisecond:
				s.Sent(time.Now())
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				sent := time.Now()
				b := newServer(t, func(o *breaker.Options) {
					o.Silence = silence
					if test.change != nil {
						test.change(o, sent)
					}
				})
				for range test.waiting {
					b.Sent(sent)
				}
				for after := time.Duration(0); after <= 200*time.Millisecond; after += 10 * time.Millisecond {
					if test.during != nil {
						test.during(b, after)
					}
					b.Asked(time.Now(), 0)
					if after < silence && b.IsOpen() {
						t.Errorf("got it open after %v, want it to wait for %v", after, silence)
					}
					time.Sleep(10 * time.Millisecond)
				}
				opened := strings.Contains(b.log.String(), "does not answer")
				if opened != test.open {
					t.Errorf("got opened %v, want %v", opened, test.open)
				}
			})
		})
	}
}

// Those who wait in line count as well, and a node that is asked for the first time after
// a long while is not silent in that moment, however long nobody has looked.
func TestBreaker_ProbeHasTimeToAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newServer(t, func(o *breaker.Options) { o.Silence = 90 * time.Millisecond })
		b.Sent(time.Now())
		b.Asked(time.Now(), 3) // four wait from now on
		time.Sleep(time.Second)
		b.Asked(time.Now(), 3)
		if b.IsOpen() {
			t.Error("got it open in the moment in which the probe begins, want the probe to have time")
		}
		time.Sleep(31 * time.Millisecond)
		b.Asked(time.Now(), 3)
		if !b.IsOpen() {
			t.Error("got it closed, want it open when the probe has had a third of the time")
		}
	})
}

func TestBreaker_AnswersSince(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newServer(t, nil)
		b.Sent(time.Now())
		time.Sleep(time.Second)
		sent := time.Now()
		b.Sent(sent)
		if b.AnswersSince(sent) {
			t.Error("got an answer before there was one")
		}
		time.Sleep(time.Second)
		b.Over(time.Now(), false)
		if b.AnswersSince(sent) {
			t.Error("got an answer for a command that had none")
		}
		b.Over(time.Now(), true)
		if !b.AnswersSince(sent) {
			t.Error("got no answer, want one")
		}
	})
}
