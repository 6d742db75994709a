package aside_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// allPages returns the text of each Markdown page of the repository.
func allPages(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && filepath.Ext(path) != ".md" {
			return err
		}
		if d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if d.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		out[filepath.ToSlash(path)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 12 {
		t.Fatalf("got only %v", slices.Sorted(maps.Keys(out)))
	}
	return out
}

var fence = regexp.MustCompile("(?s)(?:^|\n) *```(\\w*)\n(.*?)\n *```")

// blocks returns the fenced blocks of a page in a language.
func blocks(page, language string) (out []string) {
	for _, m := range fence.FindAllStringSubmatch(page, -1) {
		if m[1] == language {
			out = append(out, m[2])
		}
	}
	return out
}

// Each block of Go on a page is in a test file, and so compiled. CI builds and runs the
// first one of README.md, a whole program.
func TestPages_GoCompiles(t *testing.T) {
	t.Parallel()
	var tests []string
	for _, pattern := range []string{"*_test.go", "*/*_test.go", "*/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tests = append(tests, unindented(string(text)))
		}
	}
	found := 0
	for name, page := range allPages(t) {
		for i, block := range blocks(page, "go") {
			if name == "README.md" && i == 0 {
				if !strings.HasPrefix(block, "package main\n") {
					t.Errorf("the first block of %s is no program", name)
				}
				continue
			}
			found++
			if !slices.ContainsFunc(tests, func(text string) bool { return strings.Contains(text, unindented(block)) }) {
				t.Errorf("%s: no test file has this block:\n%s", name, block)
			}
		}
	}
	if found < 8 {
		t.Errorf("got only %d blocks", found)
	}
}

func unindented(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimLeft(line, "\t")
	}
	return strings.Join(lines, "\n")
}

// runElsewhere are pages whose commands a test of their own runs, or checks.
var runElsewhere = map[string]string{
	"docs/other-languages.md": "languages_test.go",
	"docs/guide.md":           "examples/chatserver/guide_test.go",
	"docs/guide.ko.md":        "examples/chatserver/guide_test.go",
	"CONTRIBUTING.md":         "contributing_test.go",
	"docs/releasing.md":       "contributing_test.go",
}

// notRun are commands of other pages that neither a test nor .ci runs, with the reason.
var notRun = map[string]string{
	"go get github.com/cacheaside/aside":                                               "CI's consumer outside the tree gets the modules from a proxy of its own",
	"go get github.com/cacheaside/aside/asideprom":                                     "the same",
	"go get github.com/cacheaside/aside/asideotel":                                     "the same",
	"CACHE_TYPE=memory go run ./examples/chatserver":                                   "the tests of examples/chatserver start the same server",
	"PORT=8001 REDIS_HOST=localhost DATABASE_URL=chat.db go run ./examples/chatserver": "TestBrowser_TwoServers starts two on free ports",
	"PORT=8002 REDIS_HOST=localhost DATABASE_URL=chat.db go run ./examples/chatserver": "the same",
}

// Each command line on a page is one that a test or .ci runs, or is in notRun.
func TestPages_CommandsAreRun(t *testing.T) {
	t.Parallel()
	var run strings.Builder
	for _, file := range []string{"Makefile", ".ci/run", ".ci/nightly", ".ci/common.sh"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		run.Write(text)
	}
	unused := maps.Clone(notRun)
	for name, page := range allPages(t) {
		if file, ok := runElsewhere[name]; ok {
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s is checked by %s, which is not there: %v", name, file, err)
			}
			continue
		}
		for _, language := range []string{"sh", "bash", "shell", "console"} {
			for _, block := range blocks(page, language) {
				for line := range strings.Lines(block) {
					line, _, _ = strings.Cut(strings.TrimSpace(line), "  #")
					delete(unused, line)
					if notRun[line] == "" && line != "" && !strings.Contains(run.String(), line) {
						t.Errorf("%s: nothing runs %q", name, line)
					}
				}
			}
		}
	}
	for line := range unused {
		t.Errorf("no page has %q", line)
	}
}

// README.md has two commands, each as a line of its own: CI runs the second.
func TestReadme_Commands(t *testing.T) {
	t.Parallel()
	lines := strings.Split(allPages(t)["README.md"], "\n")
	for _, want := range []string{
		"CACHE_TYPE=memory go run ./examples/chatserver",
		"go test ./... ./asideotel/... ./asideprom/... ./examples/... ./proof/...",
	} {
		at := slices.Index(lines, want)
		if at < 1 || at > 40 || lines[at-1] != "```sh" || lines[at+1] != "```" {
			t.Errorf("%q is at line %d, want it near the top in a fence of its own", want, at+1)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
)

// A link within the repository leads to a file, and its fragment to a heading there.
func TestPages_LinksLead(t *testing.T) {
	t.Parallel()
	all := allPages(t)
	for name, page := range all {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(page, "\n"), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, fragment, _ := strings.Cut(m[1], "#")
			target := name
			if path != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(name), path))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			} else if fragment != "" && !slices.Contains(anchors(all[target]), fragment) {
				t.Errorf("%s links to %s, and there is no such heading", name, m[1])
			}
		}
	}
}

// Each page of docs/ is in its index, and README.md leads to the index.
func TestPages_AreInTheIndex(t *testing.T) {
	t.Parallel()
	all := allPages(t)
	for name := range all {
		if file, ok := strings.CutPrefix(name, "docs/"); ok && file != "README.md" && file != "releasing.md" && !strings.Contains(all["docs/README.md"], "]("+file+")") {
			t.Errorf("docs/README.md has no link to %s", file)
		}
	}
	if !strings.Contains(all["README.md"], "](docs/README.md)") {
		t.Error("README.md has no link to docs/README.md")
	}
}

// anchors returns the fragments of a page's headings as GitHub makes them.
func anchors(page string) (out []string) {
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, "\n"), -1) {
		out = append(out, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1]))
	}
	return out
}
