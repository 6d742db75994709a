// Command mutate tests the tests. It applies deliberate bugs, called breakages, to a copy of
// the tree, one at a time, runs the tests on it, and prints which test caught each. It fails
// if a breakage survives, or cannot be applied any more.
//
//	go run ./proof/mutate                 all of them
//	go run ./proof/mutate -run token      those with token in the name or the patch file's
//	go run ./proof/mutate -table          all of them, and their table in docs/breakages.md
//	go run ./proof/mutate -for 3m         as many as begin in that time, on a tree that passes
//	go run ./proof/mutate -shard 2/4      the second of four parts
//
// A promise without a test that fails when it is broken is a claim only. Mutation tools make
// bugs by rule and find many that matter to no user; these are chosen, each against something
// that a comment or a document promises.
//
// With -for, breakages of files that the last day's commits changed come first. The others
// come in an order that differs from commit to commit, so that all get their turn.
//
// The test that the table names is run first, as it most likely catches the breakage again.
// If it does not, all tests are run.
//
// A breakage is a patch file in a folder in breakages. To add one, break a file and write the
// difference below a line that describes the bug:
//
//	(echo "a fill without its token check"; echo; git diff) > proof/mutate/breakages/redis-protocol/fill-without-its-token-check.patch
//	git checkout the-broken-file
//
// A hunk is found by its text, not by line numbers, so the code may move in its file. The text
// must fit one place only; if three lines of context are too few, take git diff -U9, say.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// suites are run in this order, the quick ones first, until a test fails. The tests of the
// package that a breakage changes come before them.
var suites = []suite{
	{".", nil, "ASIDE_TEST_NO_REDIS=1"},
	{".", []string{"-test.parallel=4"}, "ASIDE_TEST_REQUIRE_REDIS=1"}, // more wait than compute
	{"./proof", []string{"-test.run=^TestSimulation$", "-seeds=150"}, ""},
}

// suite is a run of the tests of a package.
type suite struct {
	pkg  string
	args []string // for the test binary
	env  string   // one more variable, NAME=value
}

const (
	suiteTimeout = 3 * time.Minute
	tableFile    = "docs/breakages.md"
	folder       = "proof/mutate/breakages"
)

func main() {
	run := flag.String("run", "", "a regular expression: only the breakages whose names or patch files match it")
	table := flag.Bool("table", false, "write "+tableFile)
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

// mutate tries the breakages that wanted chooses, with two workers, and prints the results. With
// table it writes them as well; with a limit it begins no breakage after that time.
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
	results := make([]string, len(breakages))
	errs := make(chan error)
	caughtBy, err := readTable(root)
	if err != nil {
		return err
	}
	todo := make([]int, 0, len(breakages))
	for i, b := range breakages {
		if wanted(i, b) {
			todo = append(todo, i)
		}
	}
	ctx := context.Background()
	if limit > 0 {
		if err := rotate(root, breakages, todo); err != nil {
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
		go func() { errs <- worker(ctx, root, breakages, next, caughtBy, results) }()
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
		err = writeTable(root, breakages, results)
	}
	if len(survived) > 0 {
		err = errors.Join(err, fmt.Errorf("survived: %s", strings.Join(survived, "; ")))
	}
	return err
}

// tableHead is the beginning of the table.
const tableHead = `# Deliberate breakages, and what caught them

Written by ` + "`go run ./proof/mutate -table`" + `, which applies each to a copy of the tree and runs the test that caught it last, then the tests without a Redis server, those with one, and the simulation, until a test fails.

| breakage | caught by |
|---|---|
`

// writeTable writes the table of all breakages, with the test that caught each.
func writeTable(root string, breakages []breakage, caughtBy []string) error {
	text := tableHead
	for i, b := range breakages {
		text += fmt.Sprintf("| %s | %s |\n", b.name, cmp.Or(caughtBy[i], survivor))
	}
	return os.WriteFile(filepath.Join(root, tableFile), []byte(text), 0o666)
}

// readTable returns the test that caught each breakage last, by the breakage's name.
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

// unbroken checks that a copy of the tree without a breakage passes. Otherwise each breakage
// would count as caught.
func unbroken(root string) error {
	return inCopy(root, func(dir string) error {
		caught, report, err := test(dir, suites, "")
		if err == nil && caught != "" {
			err = fmt.Errorf("the suite fails without any breakage: %s\n%s", caught, report)
		}
		return err
	})
}

// rotate sorts todo for a limited time: breakages of recently changed files come first. Both parts
// are shuffled with the commit as the seed, so a run can be repeated.
func rotate(root string, breakages []breakage, todo []int) error {
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
		if slices.ContainsFunc(breakages[i].files(), func(file string) bool { return changed[file] }) {
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

// worker tries breakages from next in a copy of the tree until ctx ends, and writes the results
// of those that it has tried.
func worker(ctx context.Context, root string, breakages []breakage, next <-chan int, caughtBy map[string]string, results []string) error {
	return inCopy(root, func(dir string) error {
		for i := range next {
			if ctx.Err() != nil {
				return nil
			}
			b, start := breakages[i], time.Now()
			caught, err := try(dir, b, caughtBy[b.name])
			if caught == "" && err == nil { // some tests find a bug by chance only, though likely
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

// try applies a breakage to the tree in dir, runs the suites, and restores the tree. It returns
// the test that failed, or "".
func try(dir string, b breakage, caughtBy string) (caught string, err error) {
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
	todo := slices.Clone(suites)
	for _, pkg := range packages(dir, b.files()) {
		todo = slices.Insert(todo, 0, suite{pkg, nil, "ASIDE_TEST_REQUIRE_REDIS=1"})
	}
	caught, _, err = test(dir, todo, caughtBy)
	return caught, err
}

// packages returns the packages of files, without those of suites and those without tests.
func packages(dir string, files []string) []string {
	var all []string
	for _, file := range files {
		pkg := "./" + filepath.ToSlash(filepath.Dir(file))
		tests, _ := filepath.Glob(filepath.Join(dir, pkg, "*_test.go"))
		if pkg != "./." && pkg != "./proof" && len(tests) > 0 && !slices.Contains(all, pkg) {
			all = append(all, pkg)
		}
	}
	return all
}

// test runs likely, the test that caught the breakage last, if there is one, and then the suites,
// until a test fails. It returns that test, and the output. Further tests might fail too.
func test(dir string, suites []suite, likely string) (caught, report string, err error) {
	todo := suites
	if m := testName.FindStringSubmatch(likely); m != nil {
		for _, s := range slices.Backward(suites) { // of the root's, the one with Redis
			if s.pkg == packageOf(m) {
				s.args = append([]string{"-test.run=^" + strings.ReplaceAll(regexp.QuoteMeta(m[1]), "/", "$/^") + "$"}, s.args...)
				todo = append([]suite{s}, suites...)
				break
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
				return "", "", fmt.Errorf("the broken tree does not compile: %w\n%s", err, out)
			}
			built = s.pkg
		}
		cmd := exec.Command(binary, append([]string{"-test.v", "-test.timeout=" + suiteTimeout.String()}, s.args...)...)
		cmd.Dir, cmd.Env = filepath.Join(dir, s.pkg), append(os.Environ(), s.env, "TMPDIR="+dir)
		caught, report, err = untilOneFails(cmd)
		if caught != "" && s.pkg != "." && s.pkg != "./proof" {
			caught += " in " + s.pkg
		}
		if caught != "" || err != nil {
			return caught, report, err
		}
	}
	return "", "", nil
}

// testName matches the test in a row of the table, with its package. The others match lines of
// go test's output: a test that failed, lines without use in a report, and in the stacks of a
// timeout the test that was running.
var (
	testName = regexp.MustCompile(`^((?:Test|Fuzz|Example)\w+[^,\s]*)(?:, which hangs)?(?: in (\S+))?`)
	failed   = regexp.MustCompile(`--- FAIL: (\S+)`)
	noise    = regexp.MustCompile(`^(=== |\s*--- (PASS|SKIP)|\d{4}/\d\d/\d\d |redis: )`)
	running  = regexp.MustCompile(`(?m)^\t\t((?:Test|Fuzz|Example)\S+) \(`)
)

// packageOf returns the package of a test that the table names.
func packageOf(name []string) string {
	if name[1] == "TestSimulation" {
		return "./proof"
	}
	return cmp.Or(name[2], ".")
}

// untilOneFails runs tests and kills them when one has failed, so as not to wait for those that
// run beside it. It returns the test that failed, and the output without noise.
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
		// The line of a subtest that failed follows that of its test.
		if m := failed.FindStringSubmatch(line); m != nil && (caught == "" || strings.HasPrefix(m[1], caught+"/")) {
			caught = m[1]
			_ = cmd.Process.Kill()
		}
	}
	if err := cmd.Wait(); err != nil && caught == "" {
		caught = "a panic, or goroutines that are left"
		if m := running.FindStringSubmatch(text.String()); m != nil {
			caught = m[1] + ", which hangs"
		}
	}
	return caught, text.String(), nil
}

// survivor stands in place of a test for a breakage that no test caught.
const survivor = "SURVIVED"

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
