// Command mutate tests the tests. It applies deliberate bugs, called breakages, to a copy of
// the tree, one at a time, and runs the test that is said to catch each. It fails if that test
// passes, or if a breakage cannot be applied any more.
//
//	go run ./proof/mutate                 all of them
//	go run ./proof/mutate -run token      those with token in the name or the patch file's
//	go run ./proof/mutate -for 3m         as many as begin in that time, on a tree that passes
//	go run ./proof/mutate -shard 2/4      the second of four parts
//	go run ./proof/mutate -table          none of them; only writes docs/breakages.md
//
// A promise without a test that fails when it is broken is a claim only. Mutation tools make
// bugs by rule and find many that matter to no user; these are chosen, each against something
// that a comment or a document promises.
//
// With -for, breakages of files that the last day's commits changed come first. The others
// come in an order that differs from commit to commit, so that all get their turn.
//
// A breakage is a patch file in a folder in breakages. To add one, break a file and write the
// difference below a line that describes the bug:
//
//	(echo "a fill without its token check"; echo; git diff) > proof/mutate/breakages/redis-protocol/fill-without-its-token-check.patch
//	git checkout the-broken-file
//	go run ./proof/mutate -run 'token check'
//
// For a breakage that names no test, those of the packages that it changes, of the root, and
// the simulation are run until one fails. That test is written into the patch file, as "caught
// by TestP1_ALateFill" in its second line; "in ./internal/outbox" follows where it is not a test
// of the root. To look for another one, remove the line.
//
// A hunk is found by its text, not by line numbers, so the code may move in its file. The text
// must fit one place only; if three lines of context are too few, take git diff -U9, say.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	tableFile = "docs/breakages.md"
	folder    = "proof/mutate/breakages"
)

func main() {
	run := flag.String("run", "", "a regular expression: only the breakages whose names or patch files match it")
	table := flag.Bool("table", false, "write "+tableFile+" and try no breakage")
	limit := flag.Duration("for", 0, "begin no breakage after this time, and do not test the unbroken tree; 0 is no limit")
	part, parts := 1, 1
	flag.Func("shard", "i/n: only the i-th of n parts", func(s string) error {
		_, err := fmt.Sscanf(s, "%d/%d", &part, &parts)
		if err == nil && (part < 1 || part > parts) {
			err = fmt.Errorf("want i/n with 1 <= i <= n")
		}
		return err
	})
	flag.Parse()
	only, err := regexp.Compile(*run)
	if err == nil {
		err = mutate(func(i int, b breakage) bool {
			return i%parts == part-1 && (only.MatchString(b.name) || only.MatchString(b.patch))
		}, *table, *limit)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// mutate tries the breakages that wanted chooses, with two workers, and prints the results.
// With a limit it begins no breakage after that time. With table it writes the table only.
func mutate(wanted func(int, breakage) bool, table bool, limit time.Duration) error {
	root, err := output("git", "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	root = strings.TrimSpace(root)
	breakages, err := readBreakages(os.DirFS(filepath.Join(root, folder)))
	if err != nil {
		return err
	}
	if table {
		return os.WriteFile(filepath.Join(root, tableFile), []byte(tableOf(breakages)), 0o666)
	}
	todo := make([]breakage, 0, len(breakages))
	for i, b := range breakages {
		if wanted(i, b) {
			todo = append(todo, b)
		}
	}
	ctx := context.Background()
	if limit > 0 {
		if err := rotate(root, todo); err != nil {
			return err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	} else if err := unbroken(root, todo); err != nil {
		return err
	}
	next := make(chan breakage, len(todo))
	for _, b := range todo {
		next <- b
	}
	close(next)
	const workers = 2
	var results counts
	errs := make(chan error)
	for range workers {
		go func() { errs <- worker(ctx, root, next, &results) }()
	}
	for range workers {
		err = errors.Join(err, <-errs)
	}
	fmt.Printf("%d of %d breakages tried, %d caught\n", results.tried, len(breakages), results.tried-len(results.survived))
	if len(results.survived) > 0 {
		err = errors.Join(err, fmt.Errorf("survived: %s", strings.Join(results.survived, "; ")))
	}
	return err
}

// counts are the results of a run. Its method may be called concurrently.
type counts struct {
	mu       sync.Mutex
	tried    int
	survived []string // the names
}

func (c *counts) add(b breakage, caught string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tried++
	if caught == "" {
		c.survived = append(c.survived, b.name)
	}
}

// tableOf returns the table of all breakages, with the test that catches each.
func tableOf(breakages []breakage) string {
	text := `# Deliberate breakages, and the tests that catch them

Written by ` + "`go run ./proof/mutate -table`" + ` from the patch files. ` + "`go run ./proof/mutate`" + ` applies each to a copy of the tree and fails if its test passes three times.

| breakage | caught by |
|---|---|
`
	for _, b := range breakages {
		text += fmt.Sprintf("| %s | %s |\n", b.name, b.caughtBy)
	}
	return text
}

// unbroken checks that the tests of all breakages in todo pass in a copy of the tree without a
// breakage. Otherwise each would count as caught.
func unbroken(root string, todo []breakage) error {
	tests := make(map[string][]string) // by package
	for _, b := range todo {
		if name, pkg := b.test(); name != "" && !slices.Contains(tests[pkg], name) {
			tests[pkg] = append(tests[pkg], name)
		}
	}
	return inCopy(root, func(dir string) error {
		for _, pkg := range slices.Sorted(maps.Keys(tests)) {
			if err := buildTests(dir, pkg); err != nil {
				return err
			}
			got, err := runSuite(dir, suite{pkg: pkg, args: []string{"-test.timeout=30m", "-test.run=" + pattern(tests[pkg]...)}})
			if err == nil && got.failed != "" {
				err = fmt.Errorf("a test fails without any breakage: %s\n%s", got.failed, got.report)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// rotate sorts todo for a limited time: breakages of recently changed files come first. Both parts
// are shuffled with the commit as the seed, so a run can be repeated.
func rotate(root string, todo []breakage) error {
	head, err := output("git", "-C", root, "log", "-1", "--format=%H %ct")
	if err != nil {
		return err
	}
	var hash string
	var when int64
	if _, err := fmt.Sscan(head, &hash, &when); err != nil {
		return err
	}
	names, err := output("git", "-C", root, "log", fmt.Sprintf("--since=%d", when-24*60*60), "--name-only", "--format=")
	if err != nil {
		return err
	}
	changed := make(map[string]bool)
	for name := range strings.Lines(names) {
		changed[strings.TrimSpace(name)] = true
	}
	recent := func(b breakage) int {
		if slices.ContainsFunc(b.files(), func(file string) bool { return changed[file] }) {
			return 0
		}
		return 1
	}
	var seed [32]byte
	copy(seed[:], hash)
	rand.New(rand.NewChaCha8(seed)).Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
	slices.SortStableFunc(todo, func(a, b breakage) int { return recent(a) - recent(b) })
	return nil
}

// worker tries breakages from next in a copy of the tree until ctx ends.
func worker(ctx context.Context, root string, next <-chan breakage, results *counts) error {
	return inCopy(root, func(dir string) error {
		for b := range next {
			if ctx.Err() != nil {
				return nil
			}
			start := time.Now()
			caught, err := try(dir, b)
			if err == nil && b.caughtBy == "" && caught != "" {
				b.caughtBy = caught
				err = passes(dir, b)
				if err == nil {
					err = note(filepath.Join(root, folder, filepath.FromSlash(b.patch)), caught)
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", b.name, err)
			}
			results.add(b, caught)
			fmt.Printf("%-60s %3.0fs  %s\n", b.name, time.Since(start).Seconds(), cmp.Or(caught, "SURVIVED "+b.caughtBy))
		}
		return nil
	})
}

// passes checks that the test that has caught a breakage passes without it.
func passes(dir string, b breakage) error {
	name, pkg := b.test()
	if err := buildTests(dir, pkg); err != nil {
		return err
	}
	for range tries {
		got, err := runAlone(dir, pkg, name)
		if err == nil && got.failed != "" {
			err = fmt.Errorf("%s fails without the breakage\n%s", name, got.report)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// note writes the test that has caught a breakage into the second line of its patch file.
func note(patch, caught string) error {
	text, err := os.ReadFile(patch)
	if err != nil {
		return err
	}
	name, rest, _ := strings.Cut(string(text), "\n")
	return os.WriteFile(patch, []byte(name+"\n"+caughtBy+caught+"\n"+rest), 0o666)
}

// inCopy calls do with the folder of a copy of the tree, which it removes afterwards.
func inCopy(root string, do func(dir string) error) error {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := copyTree(root, dir); err != nil {
		return err
	}
	return do(dir)
}

// try applies a breakage to the tree in dir, runs the test that it names, or all, and restores
// the tree. It returns the test that failed, or "".
func try(dir string, b breakage) (caught string, err error) {
	before, after, err := b.apply(dir)
	if err != nil {
		return "", err
	}
	defer func() {
		for file, text := range before {
			_ = os.WriteFile(filepath.Join(dir, file), []byte(text), 0o666)
		}
	}()
	for file, text := range after {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o666); err != nil {
			return "", err
		}
	}
	if name, pkg := b.test(); name != "" {
		if err := buildTests(dir, pkg); err != nil {
			return "", err
		}
		return alone(dir, pkg, name)
	}
	todo := slices.Clone(suites)
	for _, pkg := range packages(dir, b.files()) {
		todo = slices.Insert(todo, 0, suite{pkg: pkg})
	}
	return firstToFail(dir, todo)
}

// copyTree copies the files that git tracks or would add.
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

// output runs a command and returns its standard output.
func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}
