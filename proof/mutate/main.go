// Command mutate tests the tests: it applies each of a list of deliberate
// breakages to a copy of the tree, runs the suite on it, and says which tests
// caught it. It fails when one survives, or can not be applied any more.
//
//	go run ./proof/mutate                 all of them
//	go run ./proof/mutate -run token      those with token in their names
//	go run ./proof/mutate -table FILE     all of them, and a table in a file
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// breakage is a deliberate bug.
type breakage struct {
	name  string
	edits []edit
}

// edit replaces text that a file has exactly once.
type edit struct{ file, old, new string }

// suites are run in this order, the quick ones first, until one of them fails.
// Each is a package with arguments for go test.
var suites = []struct {
	name string
	args []string
	env  string
}{
	{"tests without Redis", []string{"."}, "ASIDE_TEST_NO_REDIS=1"},
	{"simulation", []string{"./proof", "-run", "^TestSimulation$", "-seeds", "150"}, ""},
	{"tests", []string{"./..."}, ""},
}

const suiteTimeout = 100 * time.Second

func main() {
	run := flag.String("run", "", "only the breakages whose names have this in them")
	table := flag.String("table", "", "the file to write a table to")
	flag.Parse()
	if err := mutate(*run, *table); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func mutate(run, table string) error {
	root, err := output("git", "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	results := make([][]string, len(breakages))
	errs := make(chan error)
	next := make(chan int, len(breakages)) // those to try
	for i, b := range breakages {
		if strings.Contains(b.name, run) {
			next <- i
		}
	}
	close(next)
	const workers = 2
	for range workers {
		go func() { errs <- worker(strings.TrimSpace(root), next, results) }()
	}
	for range workers {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	rows := []string{"# Deliberate breakages, and what caught them", "",
		"Written by `go run ./proof/mutate -table docs/breakages.md`, which runs the tests without a Redis server, then the simulation, then all tests of the library, until one of them fails.", "",
		"| breakage | caught by |", "|---|---|"}
	var survived []string
	for i, b := range breakages {
		if !strings.Contains(b.name, run) {
			continue
		}
		rows = append(rows, fmt.Sprintf("| %s | %s |", b.name, describe(results[i])))
		if len(results[i]) == 0 {
			survived = append(survived, b.name)
		}
	}
	if table != "" {
		if err := os.WriteFile(table, []byte(strings.Join(rows, "\n")+"\n"), 0o666); err != nil {
			return err
		}
	}
	if len(survived) > 0 {
		return fmt.Errorf("survived: %s", strings.Join(survived, "; "))
	}
	return nil
}

// worker tries breakages in a copy of the tree, which without any passes.
func worker(root string, next <-chan int, results [][]string) error {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := copyTree(root, dir); err != nil {
		return err
	}
	if caught, report := test(dir); len(caught) > 0 {
		return fmt.Errorf("the suite fails without any breakage: %s\n%s", caught, report)
	}
	for i := range next {
		b, start := breakages[i], time.Now()
		caught, err := try(dir, b)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		results[i] = caught
		fmt.Printf("%-60s %3.0fs  %s\n", b.name, time.Since(start).Seconds(), describe(caught))
	}
	return nil
}

// try applies a breakage, runs the suites, and takes it back.
func try(dir string, b breakage) (caught []string, err error) {
	originals := make(map[string][]byte)
	defer func() {
		for file, text := range originals {
			_ = os.WriteFile(filepath.Join(dir, file), text, 0o666)
		}
	}()
	for _, e := range b.edits {
		path := filepath.Join(dir, e.file)
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if n := bytes.Count(text, []byte(e.old)); n != 1 {
			return nil, fmt.Errorf("%s has this text %d times, want once:\n%s", e.file, n, e.old)
		}
		if originals[e.file] == nil {
			originals[e.file] = text
		}
		if err := os.WriteFile(path, bytes.Replace(text, []byte(e.old), []byte(e.new), 1), 0o666); err != nil {
			return nil, err
		}
	}
	caught, report := test(dir)
	if strings.Contains(report, "[build failed]") {
		return nil, fmt.Errorf("it does not compile:\n%s", report)
	}
	return caught, nil
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// test runs the suites, until one of them fails, and returns the tests that did.
func test(dir string) (caught []string, report string) {
	for _, s := range suites {
		ctx, cancel := context.WithTimeout(context.Background(), suiteTimeout+time.Minute)
		args := append([]string{"test", "-count=1", "-failfast", "-vet=off", "-timeout", suiteTimeout.String()}, s.args...)
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), s.env)
		out, err := cmd.CombinedOutput()
		cancel()
		if err == nil {
			continue
		}
		report += string(out)
		names := failed.FindAllSubmatch(out, -1)
		for _, n := range names {
			caught = append(caught, string(n[1]))
		}
		if len(names) == 0 {
			caught = append(caught, "the "+s.name+", which hang or panic")
		}
		break
	}
	return leaves(caught), report
}

func describe(caught []string) string {
	if len(caught) == 0 {
		return "SURVIVED"
	}
	if len(caught) > 3 {
		caught = append(slices.Clone(caught[:3]), fmt.Sprintf("and %d more", len(caught)-3))
	}
	return strings.Join(caught, ", ")
}

// leaves leaves out the tests whose subtests are there.
func leaves(caught []string) []string {
	return slices.DeleteFunc(slices.Clone(caught), func(name string) bool {
		return slices.ContainsFunc(caught, func(other string) bool { return strings.HasPrefix(other, name+"/") })
	})
}

// copyTree copies the files that git knows or would add.
func copyTree(root, dir string) error {
	list, err := output("git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return err
	}
	for file := range strings.Lines(list) {
		file = strings.TrimSpace(file)
		text, err := os.ReadFile(filepath.Join(root, file))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		to := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return err
		}
		if err := os.WriteFile(to, text, 0o666); err != nil {
			return err
		}
	}
	return nil
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}
