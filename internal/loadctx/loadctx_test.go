package loadctx_test

import (
	"context"
	"testing"
	"time"

	"github.com/cacheaside/aside/internal/loadctx"
)

type key struct{}

func begin(ctx context.Context, owner any) *loadctx.Context {
	c := &loadctx.Context{}
	c.Begin(ctx, owner)
	return c
}

func TestWithin(t *testing.T) {
	t.Parallel()
	outer := begin(t.Context(), "outer")
	inner := begin(context.WithValue(outer, key{}, "v"), "inner")
	for _, c := range []struct {
		ctx          context.Context
		outer, inner bool
		of           *loadctx.Context
	}{
		{t.Context(), false, false, nil},
		{outer, true, false, outer},
		{inner, true, true, inner},
		{context.WithoutCancel(inner), true, true, inner},
	} {
		if o, i := loadctx.Within(c.ctx, "outer"), loadctx.Within(c.ctx, "inner"); o != c.outer || i != c.inner || loadctx.Of(c.ctx) != c.of {
			t.Errorf("got within %v, %v, want %v, %v, and the innermost", o, i, c.outer, c.inner)
		}
	}
	if inner.Value(key{}) != "v" {
		t.Error("a value is lost")
	}
}

func TestContext_Keep(t *testing.T) {
	t.Parallel()
	c := begin(t.Context(), nil)
	want := func(key string, d time.Duration, ok bool) {
		t.Helper()
		if got, is := c.Kept(key); got != d || is != ok {
			t.Errorf("%s: got %v, %v, want %v, %v", key, got, is, d, ok)
		}
	}
	want("a", 0, false)
	c.Keep(time.Minute, "a", "b")
	c.Keep(time.Second, "b")
	want("a", time.Minute, true)
	want("b", time.Second, true)
	want("c", 0, false)
	c.Keep(0)
	want("a", 0, true)
	want("c", 0, true)
	c.Keep(time.Hour, "a")
	want("a", time.Hour, true)
	c.Forget()
	want("a", 0, false)
}

func TestIsFresh(t *testing.T) {
	fresh := loadctx.WithFresh(t.Context())
	within := begin(fresh, nil)
	if loadctx.IsFresh(t.Context()) || !loadctx.IsFresh(fresh) || loadctx.IsFresh(within) || !loadctx.IsFresh(loadctx.WithFresh(within)) {
		t.Error("a context is fresh that is not WithFresh's, or one is not that is")
	}
}
