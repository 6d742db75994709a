package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestRooms(t *testing.T) {
	t.Parallel()
	p, err := load("testdata/rooms")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ what, got, want string }{
		{"files", fmt.Sprint(p.files), "[a.go alone.go b.go c.go user.go]"},
		{"names", fmt.Sprint(p.names), "[A Alone B C Generated User]"},
		{"knot", fmt.Sprint(p.knot()), "[a.go b.go c.go]"},
		{"below", fmt.Sprint(p.below), "[github.com/cacheaside/aside/proof/knot/testdata/rooms/internal/above]"},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %s, want %s", test.what, test.got, test.want)
		}
	}
	var text strings.Builder
	p.explain(&text)
	if got, want := text.String(), "a.go needs b.go: size\nb.go needs a.go: A\nb.go needs c.go: most\nc.go needs a.go: A\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	p := pkg{files: []string{"a", "b", "c"}, names: []string{"A", "B"},
		needs: map[string]map[string]string{"a": {"b": "x"}, "b": {"a": "y", "c": "z"}}}
	for _, test := range []struct {
		most limits
		want string // of the error; none when it is empty
	}{
		{limits{}, ""},
		{limits{files: 3, names: 2, knot: 2}, ""},
		{limits{files: 2}, "3 files, want at most 2"},
		{limits{names: 1}, "2 exported names, want at most 1"},
		{limits{knot: 1}, "2 files that need each other, want at most 1"},
	} {
		if got := fmt.Sprint(p.exceeds(test.most)); got != test.want && (test.want != "" || got != "<nil>") {
			t.Errorf("%+v: got the error %s, want %q", test.most, got, test.want)
		}
	}
	p.below = []string{"p/internal/x"}
	if err := p.exceeds(limits{}); err == nil {
		t.Error("an internal package that depends on the package above it passes")
	}
}
