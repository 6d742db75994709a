package main

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A breakage that cannot be applied any more tests nothing.
func TestBreakagesApply(t *testing.T) {
	t.Parallel()
	breakages, err := readBreakages(os.DirFS("breakages"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]string)
	for _, b := range breakages {
		if other := names[b.name]; other != "" {
			t.Errorf("%s and %s have one name, want two", other, b.patch)
		}
		names[b.name] = b.patch
		before, after, err := b.apply(filepath.Join("..", ".."))
		if err != nil {
			t.Error(err)
		}
		for file, text := range after {
			if text == before[file] {
				t.Errorf("%s changes nothing in %s", b.patch, file)
			}
			if filepath.Ext(file) != ".go" {
				continue
			}
			if _, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution); err != nil {
				t.Errorf("%s: its result is not Go: %v", b.patch, err)
			}
		}
	}
}

// A breakage names the test that catches it, so that each can be tried in seconds.
func TestBreakagesNameTheirTest(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	breakages, err := readBreakages(os.DirFS("breakages"))
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string]string) // the text of all test files, by package
	for _, b := range breakages {
		name, pkg := b.test()
		if name == "" {
			t.Errorf("%s does not name the test that catches it: go run ./proof/mutate -run '%s'", b.patch, b.patch)
			continue
		}
		if _, ok := tests[pkg]; !ok {
			files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				tests[pkg] += string(text)
			}
		}
		if name, _, _ := strings.Cut(name, "/"); !strings.Contains(tests[pkg], "\nfunc "+name+"(") {
			t.Errorf("%s is caught by %s, which is not there", b.patch, b.caughtBy)
		}
	}
	table, err := os.ReadFile(filepath.Join(root, tableFile))
	if err != nil {
		t.Fatal(err)
	}
	if string(table) != tableOf(breakages) {
		t.Errorf("%s is out of date: go run ./proof/mutate -table", tableFile)
	}
}

const tree = `package p

func first() {
	begin()
	work()
	end()
}

func second() {
	begin()
	rest()
	end()
}

func third() {
	begin()
	rest()
	leave()
}
`

// patch removes work from first, and has a wrong line number.
const patch = `no work

diff --git a/p.go b/p.go
--- a/p.go
+++ b/p.go
@@ -90,7 +90,6 @@ package p
 
 func first() {
 	begin()
-	work()
 	end()
 }
 
`

func TestApply(t *testing.T) {
	t.Parallel()
	second := strings.NewReplacer("first", "second", "work", "rest")
	replace := strings.NewReplacer
	for _, test := range []struct {
		name, tree, patch string
		want, err         string // one of them
	}{
		{name: "as it was", tree: tree, patch: patch, want: replace("\twork()\n", "").Replace(tree)},
		{name: "code before it", tree: replace("p\n", "p\n\nvar x int\n").Replace(tree), patch: patch,
			want: replace("p\n", "p\n\nvar x int\n", "\twork()\n", "").Replace(tree)},
		{name: "another function before it", tree: replace("\nfunc third() {\n\tbegin()\n\trest()\n\tleave()\n}\n", "", "p\n", "p\n\nfunc third() {\n\tbegin()\n\trest()\n\tleave()\n}\n").Replace(tree), patch: second.Replace(patch),
			want: "package p\n\nfunc third() {\n\tbegin()\n\trest()\n\tleave()\n}\n\nfunc first() {\n\tbegin()\n\twork()\n\tend()\n}\n\nfunc second() {\n\tbegin()\n\tend()\n}\n"},
		{name: "context that changed", tree: replace("\tend()\n}\n\nfunc second", "\tend()\n\tlog()\n}\n\nfunc second").Replace(tree), patch: patch,
			want: replace("\twork()\n", "", "\tend()\n}\n\nfunc second", "\tend()\n\tlog()\n}\n\nfunc second").Replace(tree)},
		{name: "an editor's empty lines", tree: tree, patch: replace("\n \n", "\n\n").Replace(patch), want: replace("\twork()\n", "").Replace(tree)},
		{name: "its line changed", tree: replace("work()", "toil()").Replace(tree), patch: patch, err: "fits nowhere"},
		{name: "its line is elsewhere only", tree: replace("\twork()\n", "", "rest()\n\tend()", "work()\n\tend()").Replace(tree), patch: patch, err: "in another function"},
		{name: "two places", tree: replace("work", "rest").Replace(tree), patch: replace("work", "rest", " func first() {\n", "").Replace(patch), err: "fits 2 places"},
		{name: "a file that is gone", patch: patch, err: "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if test.tree != "" {
				if err := os.WriteFile(filepath.Join(dir, "p.go"), []byte(test.tree), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			b, err := parse("no-work.patch", test.patch)
			if err != nil {
				t.Fatal(err)
			}
			_, after, err := b.apply(dir)
			switch {
			case test.err == "" && err != nil:
				t.Error(err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("got %q and the error %v, want an error with %q", after["p.go"], err, test.err)
			case after["p.go"] != test.want:
				t.Errorf("got %q, want %q", after["p.go"], test.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "a name only\n", "a name\n\n@@ -1 +1 @@\n-a\n+b\n", patch + "no diff\n"} {
		if b, err := parse("x.patch", text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, b)
		}
	}
}
