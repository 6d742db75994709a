// Lease requests, fills, extensions and releases that share a round trip. A Call is one of
// them as data; it can be carried out by itself (Call.Do) or with others in one pipeline of
// scripts (Store.Together). Both ways send the same script and read its answer alike.

package redisstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/foreign"
)

// AloneBytes is the size above which a value is stored by itself: sharing a round trip would
// gain it little, and other calls would wait for its transfer.
const AloneBytes = 16 << 10

// Call is a lease request, a fill, or the extension or release of a lease. The first of the
// fields Lease, Extend, Release and Fill that is set says which.
type Call struct {
	Key   string
	Lease *backend.LeaseRequest // nil unless the call requests a lease
	Token string                // of the lease, for the other kinds

	Extend  time.Duration // the time that the lease is to last from now on
	Release bool
	Fill    backend.Fill

	nonce string // of a lease request's token; stays the same when the request is sent again
}

// Reply is the answer to a Call.
type Reply struct {
	Lease  backend.Lease
	Stored bool // by a fill; of an extension, whether the lease was still held
	Err    error

	// Elsewhere says that Err is the redirection of a Cluster's node that does not have the
	// key, or will not have it for long. The call must be carried out by itself: the client
	// follows a redirection for one command, and not for a pipeline.
	Elsewhere bool
}

// Alone reports whether the call must go by itself. Large calls would delay others. Claims
// are rare, and a claim in line could be overtaken by the release of a caller that gives up.
func (c *Call) Alone() bool {
	if c.Lease != nil {
		return c.Lease.Claim != nil || len(c.Lease.Undecodable) > AloneBytes
	}
	return len(c.Fill.Value) > AloneBytes
}

// Do carries the call out by itself, on any backend.
func (c *Call) Do(ctx context.Context, b backend.Backend) (r Reply, err error) {
	switch {
	case c.Lease != nil:
		r.Lease, err = b.Lease(ctx, c.Key, *c.Lease)
	case c.Extend != 0:
		r.Stored, err = b.Extend(ctx, c.Token, c.Extend, c.Key)
	case c.Release:
		err = b.Release(ctx, c.Key, c.Token)
	default:
		r.Stored, err = b.Fill(ctx, c.Key, c.Token, c.Fill)
	}
	return r, err
}

// script returns the call's script, and its arguments.
func (c *Call) script() (script *redis.Script, args []any) {
	l := c.Lease
	switch {
	case l != nil:
	case c.Extend != 0:
		return extendScript, []any{c.Token, c.Extend.Milliseconds()}
	case c.Release:
		return releaseScript, releaseArgs(c.Token)
	default:
		return fillScript, []any{c.Token, c.Fill.TTL.Milliseconds(), flag(c.Fill.NotFound), c.Fill.Value, c.Fill.FreshFor.Milliseconds()}
	}
	if c.nonce == "" {
		c.nonce = rand.Text()
	}
	script, args = leaseScript, []any{l.TTL.Milliseconds(), c.nonce, l.WaitedFor, l.WakeOn, l.Overdue}
	if l.Claim != nil {
		script, args = claimScript, []any{l.TTL.Milliseconds(), l.Claim, l.Owner}
	}
	if r := l.Refresh; r != nil {
		return refreshScript, []any{l.TTL.Milliseconds(), c.nonce, l.WakeOn, r.Over.Milliseconds(), r.Within.Milliseconds(), flag(r.Always)}
	}
	if l.Undecodable != nil {
		args = append(args, l.Undecodable)
	}
	return script, args
}

// reply returns the Reply for the answer of the call's script.
func (b *Store) reply(c *Call, res any, err error) (r Reply) {
	switch {
	case err != nil:
		r.Err, r.Elsewhere = explained(err), b.cluster != nil && isElsewhere(err)
	case c.Lease != nil:
		r.Lease, r.Err = b.leaseFrom(res, c.nonce)
	default:
		r.Stored = res == int64(1)
	}
	return r
}

// alone carries a call out by itself.
func (b *Store) alone(ctx context.Context, c *Call) Reply {
	script, args := c.script()
	res, err := b.runOn(ctx, script, c.Key, args...)
	return b.reply(c, res, err)
}

// Together carries calls out in one round trip to the node that has their keys, which must be
// one node, and returns a reply for each. The error is about the node: that of the first call
// without an answer, or that of the first call if all were refused.
func (b *Store) Together(ctx context.Context, calls []*Call) (replies []Reply, err error) {
	replies = b.together(ctx, calls, false)
	refused := 0
	for _, r := range replies {
		switch {
		case r.Err == nil || r.Elsewhere:
		case !isReply(r.Err):
			return replies, r.Err
		default:
			refused++
			err = cmp.Or(err, r.Err)
		}
	}
	if refused < len(calls) {
		err = nil
	}
	return replies, err
}

// together sends scripts by their digests, and those that Redis does not know once more with
// their texts. withText is the second round.
func (b *Store) together(ctx context.Context, calls []*Call, withText bool) []Reply {
	cmds, failed := b.pipeline(ctx, calls, withText)
	replies := make([]Reply, len(calls))
	var unknown []*Call
	var places []int
	for i, c := range calls {
		var res any
		err := failed
		if i < len(cmds) {
			res, err = cmds[i].(*redis.Cmd).Result()
			err = b.refused(b.told(foreign.Examined(err)))
		}
		if res == nil && err == nil {
			err = failed // a hook of the client has failed the pipeline; no script answers nil
		}
		if replies[i] = b.reply(c, res, err); !withText && redis.HasErrorPrefix(err, "NOSCRIPT") {
			unknown, places = append(unknown, c), append(places, i)
		}
	}
	if len(unknown) > 0 {
		for i, r := range b.together(ctx, unknown, true) {
			replies[places[i]] = r
		}
	}
	return replies
}

// pipeline sends calls in one pipeline. On a Cluster they go to the node itself: the
// ClusterClient would send all of them again when one is redirected, including calls that
// have been carried out.
func (b *Store) pipeline(ctx context.Context, calls []*Call, withText bool) (_ []redis.Cmder, err error) {
	defer foreign.Catch(&err)
	return inTurn(ctx, b, calls[0].Key, func(ctx context.Context) ([]redis.Cmder, error) {
		node, err := b.masterOf(ctx, calls[0].Key)
		if err != nil {
			return nil, err
		}
		told := make(map[*redis.Script]bool)
		return node.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, c := range calls {
				script, args := c.script()
				if withText && !told[script] {
					told[script] = true
					script.Eval(ctx, p, keysOf(script, c.Key), args...)
				} else {
					script.EvalSha(ctx, p, keysOf(script, c.Key), args...)
				}
			}
			return nil
		})
	})
}

// isElsewhere reports whether err is a redirection by a node of a Cluster: see
// Reply.Elsewhere.
func isElsewhere(err error) bool {
	for _, prefix := range []string{"MOVED", "ASK", "TRYAGAIN", "READONLY"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return false
}
