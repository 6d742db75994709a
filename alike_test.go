package aside_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
)

// Memory and Redis answer alike to any calls, but where backend.Backend leaves the answer
// open. The suite has the rules one by one; here they meet each other in a random order.
func TestBackends_AnswerAlike(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		synctest.Test(t, func(t *testing.T) {
			server, l := miniredis.NewMiniRedis(), &line{}
			defer server.Close()
			client := redis.NewClient(l.options(server))
			defer client.Close()
			overRedis, inMemory := must(aside.NewRedis(client, aside.Config{})), must(aside.Open(aside.Config{Type: "memory"}))
			defer overRedis.Close()
			defer inMemory.Close()
			p := &pair{ctx: t.Context(), random: rand.New(rand.NewPCG(seed, 0)), redis: backendOf(overRedis), memory: backendOf(inMemory), server: server, released: make(map[int]time.Time)}
			for range 60 {
				if p.do(p.next()); !p.differs {
					if p.do(p.get(p.one(pairKeys...))); !p.differs {
						continue
					}
				}
				t.Fatalf("seed %d: the last answers differ, Redis's before memory's:\n%s", seed, strings.Join(p.trace, "\n"))
			}
		})
	}
}

var pairKeys = []string{"item:1", "item:2"}

// pair is a Redis and a memory backend that get the same calls. Tokens that they grant
// differ, so a call names one by its index, and so does an answer.
type pair struct {
	ctx           context.Context
	random        *rand.Rand
	redis, memory backend.Backend
	server        *miniredis.Miniredis
	tokens        [][2]string       // granted by Redis and by memory
	released      map[int]time.Time // when the lease of a token was last released
	marked        bool              // a Fill with FreshFor was among the calls
	claims        []call            // asked for
	trace         []string          // the calls and their answers
	differs       bool              // the last answers
}

// call is a call of one of the two backends, which are numbered as in tokens, and returns
// its answer as a text.
type call struct {
	text  string
	made  func(b backend.Backend, which int) string
	owner string // of a claim
}

// do makes a call of both, and compares the answers.
func (p *pair) do(c call) {
	redis, memory := c.made(p.redis, 0), c.made(p.memory, 1)
	if p.differs = redis != memory; p.differs {
		redis += " | " + memory
	}
	p.trace = append(p.trace, c.text+": "+redis)
}

// get looks at a key. On a miss, only NotFound means something.
func (p *pair) get(key string) call {
	return call{text: "  " + key, made: func(b backend.Backend, _ int) string {
		value, mark, ok, err := b.GetMarked(p.ctx, key)
		if !ok && mark != backend.NotFound {
			mark = backend.Unmarked
		}
		_, kept, ttlErr := b.TTL(p.ctx, key)
		return fmt.Sprintf("%q %v %v %v, kept %v %v", value, mark, ok, err, kept, ttlErr)
	}}
}

// next is a call that is chosen at random.
func (p *pair) next() call {
	key := p.one(pairKeys...)
	value := []byte(p.one("v", "bad", ""))
	block := p.one("w1", "w2")
	ttl := time.Duration(p.random.IntN(8))*time.Second + 500*time.Millisecond
	i := p.random.IntN(len(p.tokens) + 1)
	another := p.one("another", "")
	token := func(which int) string {
		if i == len(p.tokens) {
			return another
		}
		return p.tokens[i][which]
	}
	keys := []string{key}
	if p.random.IntN(4) == 0 {
		keys = pairKeys
	}
	switch p.random.IntN(16) {
	case 0:
		return call{text: fmt.Sprintf("Set(%s, %q, %v)", key, value, ttl), made: func(b backend.Backend, _ int) string { return fmt.Sprint(b.Set(p.ctx, key, value, ttl)) }}
	case 1:
		return call{text: fmt.Sprintf("Delete(%v)", keys), made: func(b backend.Backend, _ int) string { return fmt.Sprint(b.Delete(p.ctx, keys...)) }}
	case 2, 3:
		d := time.Duration(1+p.random.IntN(5)) * time.Second
		return call{text: fmt.Sprintf("%v later", d), made: func(_ backend.Backend, which int) string {
			if which == 0 {
				time.Sleep(d)
				p.server.FastForward(d)
			}
			return ""
		}}
	case 4:
		return call{text: fmt.Sprintf("Extend(%d, %v, %v)", i, ttl, keys), made: func(b backend.Backend, which int) string {
			held, err := b.Extend(p.ctx, token(which), ttl, keys...)
			return fmt.Sprint(held, err)
		}}
	case 5, 6:
		fill := backend.Fill{Value: value, TTL: ttl}
		switch p.random.IntN(4) {
		case 0:
			fill = backend.Fill{NotFound: true, TTL: ttl}
		case 1:
			fill = backend.Fill{NotFound: true}
		case 2:
			fill.FreshFor = time.Duration(p.random.IntN(8))*time.Second + 500*time.Millisecond
			p.marked = true
		}
		return call{text: fmt.Sprintf("Fill(%s, %d, %q, not found %v, %v, fresh for %v)", key, i, fill.Value, fill.NotFound, fill.TTL, fill.FreshFor), made: func(b backend.Backend, which int) string {
			stored, err := b.Fill(p.ctx, key, token(which), fill)
			return fmt.Sprint(stored, err)
		}}
	case 7:
		if i < len(p.tokens) {
			p.released[i] = time.Now()
		}
		return call{text: fmt.Sprintf("Release(%s, %d)", key, i), made: func(b backend.Backend, which int) string { return fmt.Sprint(b.Release(p.ctx, key, token(which))) }}
	case 8:
		return call{text: fmt.Sprintf("Block(%s, %v, %v)", block, ttl, keys), made: func(b backend.Backend, _ int) string { return fmt.Sprint(b.Block(p.ctx, block, ttl, keys...)) }}
	case 9:
		return call{text: fmt.Sprintf("Unblock(%s, %v)", block, keys), made: func(b backend.Backend, _ int) string { return fmt.Sprint(b.Unblock(p.ctx, block, keys...)) }}
	case 10:
		prefix := p.one("item:", "item:1", "other")
		return call{text: fmt.Sprintf("Clear(%s)", prefix), made: func(b backend.Backend, _ int) string { return fmt.Sprint(b.Clear(p.ctx, prefix)) }}
	default:
		return p.nextLease(key, ttl, i)
	}
}

// nextLease is a request for a lease that is chosen at random. It may wait for the lease of
// the token with the index i. It leaves out calls whose answers backend.Backend leaves
// open.
func (p *pair) nextLease(key string, ttl time.Duration, i int) call {
	_, mark, ok, _ := p.memory.GetMarked(p.ctx, key)
	switch p.random.IntN(5) {
	case 0: // a claim, perhaps one that was asked for before
		if len(p.claims) > 0 && p.random.IntN(2) == 0 {
			return p.claims[p.random.IntN(len(p.claims))]
		}
		owner := fmt.Sprint("owner", len(p.claims))
		c := p.lease(key, backend.LeaseRequest{TTL: ttl, Claim: []byte("of " + owner), Owner: owner, Undecodable: p.undecodable()}, [2]string{})
		p.claims = append(p.claims, c)
		return c
	case 1, 2:
		r := backend.Refresh{Over: 2250 * time.Millisecond, Within: time.Duration(2+p.random.IntN(6))*time.Second + 250*time.Millisecond}
		if p.marked {
			r.Over = time.Hour // by which no value is young: a mark that is over may count as none
		}
		if mark != backend.NotFound && mark != backend.Fresh { // stores may differ in how Always treats these
			r.Always = p.random.IntN(3) == 0
		}
		return p.lease(key, backend.LeaseRequest{TTL: ttl, Refresh: &r}, [2]string{})
	default:
		var waitedFor [2]string
		at, released := p.released[i]
		if i < len(p.tokens) && !(released && time.Since(at) >= backend.FailedFor) && p.random.IntN(2) == 0 {
			waitedFor = p.tokens[i]
		}
		req := backend.LeaseRequest{TTL: ttl}
		if !ok || mark != backend.Leased { // else a store may fill after the refresh, or refuse
			req.Undecodable = p.undecodable()
		}
		return p.lease(key, req, waitedFor)
	}
}

// lease is a request for a lease. waitedFor are the tokens of the lease waited for.
func (p *pair) lease(key string, req backend.LeaseRequest, waitedFor [2]string) call {
	text := fmt.Sprintf("Lease(%s, %v, undecodable %q %v", key, req.TTL, req.Undecodable, req.Undecodable != nil)
	if req.Claim != nil {
		text += ", claim of " + req.Owner
	}
	if req.Refresh != nil {
		text += fmt.Sprintf(", refresh %+v", *req.Refresh)
	}
	if i := slices.Index(p.tokens, waitedFor); i >= 0 {
		text += fmt.Sprint(", waited for ", i)
	}
	var granted [2]string
	return call{text: text + ")", made: func(b backend.Backend, which int) string {
		req.WaitedFor = waitedFor[which]
		l, err := b.Lease(p.ctx, key, req)
		if l.State == backend.Granted {
			if granted[which] = l.Token; which == 1 {
				p.tokens = append(p.tokens, granted)
			}
			return fmt.Sprint(l.State, " ", err)
		}
		if req.Refresh != nil && slices.ContainsFunc(p.claims, func(c call) bool { return c.owner == l.Token }) {
			l.Token = "" // a store may tell it or not
		}
		return fmt.Sprintf("%v %d %q %v", l.State, p.index(which, l.Token), l.Value, err)
	}, owner: req.Owner}
}

// index returns that of a backend's token in tokens.
func (p *pair) index(which int, token string) int {
	return slices.IndexFunc(p.tokens, func(t [2]string) bool { return t[which] == token })
}

func (p *pair) one(of ...string) string { return of[p.random.IntN(len(of))] }

func (p *pair) undecodable() []byte {
	return [][]byte{nil, nil, {}, []byte("bad"), []byte("v")}[p.random.IntN(5)]
}
