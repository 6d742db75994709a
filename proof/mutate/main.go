// Command mutate tests the tests: it applies each of a list of deliberate
// breakages to a copy of the tree, runs the suite on it, and says which tests
// caught it. It fails when one survives, or can not be applied any more.
//
//	go run ./proof/mutate                 all of them
//	go run ./proof/mutate -run token      those whose names match token
//	go run ./proof/mutate -table          all of them, and their table in docs/breakages.md
//	go run ./proof/mutate -for 3m         as many as begin in that time, on a tree that passes
//
// With -for, those of files that the last day's commits changed come first, and the
// others in an order that differs from commit to commit.
//
// The test that the table names is run first, as it most likely catches the
// breakage again, and all others when it does not.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
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

// suites are run in this order, the quick ones first, until a test fails: before them
// those of the internal packages that a breakage edits. Each is the tests of a package,
// with arguments for them and a variable.
var suites = []suite{
	{".", nil, "ASIDE_TEST_NO_REDIS=1"},
	{".", []string{"-test.parallel=4"}, "ASIDE_TEST_REQUIRE_REDIS=1"}, // more wait than compute
	{"./proof", []string{"-test.run=^TestSimulation$", "-seeds=150"}, ""},
}

type suite struct {
	pkg  string
	args []string
	env  string
}

const (
	suiteTimeout = 3 * time.Minute
	tableFile    = "docs/breakages.md"
)

func main() {
	run := flag.String("run", "", "a regular expression: only the breakages whose names match it")
	table := flag.Bool("table", false, "write "+tableFile)
	limit := flag.Duration("for", 0, "begin no breakage after this time, and do not test the unbroken tree; 0 is no limit")
	flag.Parse()
	only, err := regexp.Compile(*run)
	if err == nil {
		err = mutate(only, *table, *limit)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func mutate(run *regexp.Regexp, table bool, limit time.Duration) error {
	root, err := output("git", "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	results := make([]string, len(breakages))
	errs := make(chan error)
	root = strings.TrimSpace(root)
	caughtBy, err := readTable(root)
	if err != nil {
		return err
	}
	todo := make([]int, 0, len(breakages))
	for i, b := range breakages {
		if run.MatchString(b.name) {
			todo = append(todo, i)
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
	} else if err := unbroken(root); err != nil {
		return err
	}
	next := make(chan int, len(todo))
	for _, i := range todo {
		next <- i
	}
	close(next)
	const workers = 2
	for range workers {
		go func() { errs <- worker(ctx, root, next, caughtBy, results) }()
	}
	for range workers {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	var survived []string
	ran := 0
	for i, b := range breakages {
		switch results[i] {
		case "":
			results[i] = caughtBy[b.name] // a breakage that was not tried keeps its row
		case survivor:
			survived = append(survived, b.name)
			fallthrough
		default:
			ran++
		}
	}
	fmt.Printf("%d of %d breakages tried, %d caught\n", ran, len(breakages), ran-len(survived))
	if table {
		err = writeTable(root, results)
	}
	if len(survived) > 0 {
		err = errors.Join(err, fmt.Errorf("survived: %s", strings.Join(survived, "; ")))
	}
	return err
}

const tableHead = `# Deliberate breakages, and what caught them

Written by ` + "`go run ./proof/mutate -table`" + `, which applies each to a copy of the tree and runs the test that caught it last, then the tests without a Redis server, those with one, and the simulation, until a test fails.

| breakage | caught by |
|---|---|
`

func writeTable(root string, caughtBy []string) error {
	text := tableHead
	for i, b := range breakages {
		text += fmt.Sprintf("| %s | %s |\n", b.name, cmp.Or(caughtBy[i], survivor))
	}
	return os.WriteFile(filepath.Join(root, tableFile), []byte(text), 0o666)
}

// readTable returns by which test each breakage was caught last.
func readTable(root string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(root, tableFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	caughtBy := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); len(cells) == 4 {
			caughtBy[strings.TrimSpace(cells[1])] = strings.TrimSpace(cells[2])
		}
	}
	return caughtBy, nil
}

// unbroken checks that a copy of the tree without any breakage passes.
func unbroken(root string) error {
	return inCopy(root, func(dir string) error {
		caught, report, err := test(dir, "")
		if err == nil && caught != "" {
			err = fmt.Errorf("the suite fails without any breakage: %s\n%s", caught, report)
		}
		return err
	})
}

// rotate puts the breakages of recently changed files first, and shuffles both parts
// by the commit.
func rotate(root string, todo []int) error {
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
	recent := func(i int) int {
		if slices.ContainsFunc(breakages[i].edits, func(e edit) bool { return changed[e.file] }) {
			return 0
		}
		return 1
	}
	var seed [32]byte
	copy(seed[:], hash)
	rand.New(rand.NewChaCha8(seed)).Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
	slices.SortStableFunc(todo, func(a, b int) int { return recent(a) - recent(b) })
	return nil
}

// worker tries breakages in a copy of the tree until ctx ends.
func worker(ctx context.Context, root string, next <-chan int, caughtBy map[string]string, results []string) error {
	return inCopy(root, func(dir string) error {
		for i := range next {
			if ctx.Err() != nil {
				return nil
			}
			b, start := breakages[i], time.Now()
			caught, err := try(dir, b, caughtBy[b.name])
			if caught == "" && err == nil { // some are found by chance, though a likely one
				caught, err = try(dir, b, "")
			}
			if err != nil {
				return fmt.Errorf("%s: %w", b.name, err)
			}
			results[i] = cmp.Or(caught, survivor)
			fmt.Printf("%-60s %3.0fs  %s\n", b.name, time.Since(start).Seconds(), results[i])
		}
		return nil
	})
}

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

// try applies a breakage, runs the suites, and takes it back.
func try(dir string, b breakage, caughtBy string) (caught string, err error) {
	var own []suite
	originals := make(map[string][]byte)
	defer func() {
		for file, text := range originals {
			_ = os.WriteFile(filepath.Join(dir, file), text, 0o666)
		}
	}()
	for _, e := range b.edits {
		name := filepath.Join(dir, e.file)
		text, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		if n := bytes.Count(text, []byte(e.old)); n != 1 {
			return "", fmt.Errorf("%s has this text %d times, want once:\n%s", e.file, n, e.old)
		}
		if originals[e.file] == nil {
			originals[e.file] = text
		}
		if err := os.WriteFile(name, bytes.Replace(text, []byte(e.old), []byte(e.new), 1), 0o666); err != nil {
			return "", err
		}
	}
	for _, e := range b.edits {
		pkg := "./" + path.Dir(e.file)
		if strings.HasPrefix(e.file, "internal/") && !slices.ContainsFunc(own, func(s suite) bool { return s.pkg == pkg }) {
			own = append(own, suite{pkg: pkg})
		}
	}
	caught, _, err = test(dir, caughtBy, own...)
	return caught, err
}

// test runs the test that most likely fails, if one is known, then the suites,
// until a test fails: its own first. It returns which did, and what was printed; others
// might have failed after it.
func test(dir, likely string, own ...suite) (caught, report string, err error) {
	suites := slices.Concat(own, suites)
	todo := suites
	if m := testName.FindStringSubmatch(likely); m != nil {
		for _, s := range suites[len(own)+1:] { // one of each package
			if (m[1] == "TestSimulation") == (s.pkg == "./proof") {
				s.args = append([]string{"-test.run=^" + strings.ReplaceAll(regexp.QuoteMeta(m[0]), "/", "$/^") + "$"}, s.args...)
				todo = append([]suite{s}, suites...)
			}
		}
	}
	built := ""
	for _, s := range todo {
		binary := filepath.Join(dir, "mutate.test")
		if s.pkg != built {
			build := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary, s.pkg)
			build.Dir = dir
			if out, err := build.CombinedOutput(); err != nil {
				return "", "", fmt.Errorf("it does not compile: %w\n%s", err, out)
			}
			built = s.pkg
		}
		cmd := exec.Command(binary, append([]string{"-test.v", "-test.timeout=" + suiteTimeout.String()}, s.args...)...)
		cmd.Dir, cmd.Env = filepath.Join(dir, s.pkg), append(os.Environ(), s.env, "TMPDIR="+dir)
		if caught, report, err = untilOneFails(cmd); caught != "" || err != nil {
			return caught, report, err
		}
	}
	return "", "", nil
}

var (
	testName = regexp.MustCompile(`^((?:Test|Fuzz|Example)\w+)[^,\s]*`)
	failed   = regexp.MustCompile(`--- FAIL: (\S+)`)
	noise    = regexp.MustCompile(`^(=== |\s*--- (PASS|SKIP)|\d{4}/\d\d/\d\d |redis: )`)
	running  = regexp.MustCompile(`(?m)^\t\t((?:Test|Fuzz|Example)\S+) \(`)
)

// untilOneFails runs tests and kills them when one has failed: those that run
// beside it would take their time.
func untilOneFails(cmd *exec.Cmd) (caught, report string, err error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", "", err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return "", "", err
	}
	overdue := time.AfterFunc(suiteTimeout+time.Minute, func() { _ = cmd.Process.Kill() })
	defer overdue.Stop()
	var text strings.Builder
	for lines := bufio.NewReader(out); err == nil; {
		var line string
		line, err = lines.ReadString('\n')
		if !noise.MatchString(line) {
			text.WriteString(line)
		}
		// A subtest that failed stands below its test.
		if m := failed.FindStringSubmatch(line); m != nil && (caught == "" || strings.HasPrefix(m[1], caught+"/")) {
			caught = m[1]
			_ = cmd.Process.Kill()
		}
	}
	if err := cmd.Wait(); err != nil && caught == "" {
		caught = "a panic, or what is left of goroutines"
		if m := running.FindStringSubmatch(text.String()); m != nil {
			caught = m[1] + ", which hangs"
		}
	}
	return caught, text.String(), nil
}

// survivor stands in the place of a test for a breakage that none caught.
const survivor = "SURVIVED"

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
