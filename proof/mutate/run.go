package main

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// suites are run in this order, the quick ones first, until a test fails, for a breakage that
// names no test. The tests of the package that it changes come before them.
var suites = []suite{
	{pkg: ".", env: "ASIDE_TEST_NO_REDIS=1"},
	{pkg: ".", args: []string{"-test.parallel=4"}}, // more wait than compute
	{pkg: "./proof", args: []string{"-test.run=^TestSimulation$", "-seeds=150"}},
}

// suite is a run of the tests of a package.
type suite struct {
	pkg  string
	args []string // for the test binary
	env  string   // one more variable, NAME=value
}

const (
	suiteTimeout = 3 * time.Minute
	testTimeout  = 90 * time.Second // of one test: some breakages make it hang

	// A breakage has survived when its test has passed this many times: some tests find a
	// bug by chance, though a likely one.
	tries = 3
)

// firstToFail runs suites until a test fails that also fails when it is run alone, and returns
// that test, or "".
func firstToFail(dir string, todo []suite) (string, error) {
	built := ""
	for _, s := range todo {
		if s.pkg != built {
			if err := buildTests(dir, s.pkg); err != nil {
				return "", err
			}
			built = s.pkg
		}
		var chance []string // tests that failed, though not alone
		for {
			run := s
			if len(chance) > 0 {
				run.args = append(slices.Clone(s.args), "-test.skip="+pattern(chance...))
			}
			got, err := runSuite(dir, run)
			if err == nil && got.failed == unnamed {
				err = fmt.Errorf("tests of %s fail, and do not name one that does\n%s", s.pkg, got.report)
			}
			if err != nil {
				return "", err
			}
			caught := named.FindString(got.failed)
			if caught == "" {
				break
			}
			again, err := alone(dir, s.pkg, caught)
			if err != nil {
				return "", err
			}
			if again != "" {
				if s.pkg != "." {
					caught += inPackage + s.pkg
				}
				return caught, nil
			}
			name, _, _ := strings.Cut(caught, "/")
			if slices.Contains(chance, name) {
				break
			}
			chance = append(chance, name)
		}
	}
	return "", nil
}

// alone runs a test of a package whose binary is built until it fails, and returns it, or ""
// if the test passes each time. A run that fails for a panic or for goroutines that are left
// counts as its failure.
func alone(dir, pkg, name string) (caught string, err error) {
	for range tries {
		got, err := runAlone(dir, pkg, name)
		if got.failed != "" || err != nil {
			return got.failed, err
		}
	}
	return "", nil
}

// runAlone is runSuite for one test. It is an error if the test was skipped or is not there.
func runAlone(dir, pkg, name string) (outcome, error) {
	s := suite{pkg: pkg, args: []string{"-test.timeout=" + testTimeout.String(), "-test.run=" + pattern(name)}}
	if name == "TestSimulation" {
		s.args = append(s.args, "-seeds=150")
	}
	got, err := runSuite(dir, s)
	if err == nil && got.failed == "" && !got.passed[name] {
		err = fmt.Errorf("%s did not run\n%s", name, got.report)
	}
	return got, err
}

// pattern returns a regular expression for -test.run that matches tests, or one subtest, by
// their full names.
func pattern(names ...string) string {
	if len(names) == 1 {
		return "^" + strings.ReplaceAll(regexp.QuoteMeta(names[0]), "/", "$/^") + "$"
	}
	var tops []string
	for _, name := range names {
		top, _, _ := strings.Cut(name, "/")
		tops = append(tops, top)
	}
	return "^(" + strings.Join(tops, "|") + ")$"
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

// binary is the name of the test binary in a copy of the tree.
const binary = "mutate.test"

// buildTests builds the test binary of a package in dir. It turns off optimization and inlining
// of that package, which halves the time.
func buildTests(dir, pkg string) error {
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-gcflags=-N -l", "-ldflags=-s -w", "-o", filepath.Join(dir, binary), pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the tree does not compile: %w\n%s", err, out)
	}
	return nil
}

// outcome is that of a run of tests.
type outcome struct {
	failed string          // a test that failed, or ""; further ones might fail too
	passed map[string]bool // tests that passed until then, and were not skipped
	report string          // the output, without noise
}

// runSuite runs a suite whose binary is built until a test fails.
func runSuite(dir string, s suite) (outcome, error) {
	args := []string{"-test.v"}
	if !slices.ContainsFunc(s.args, func(arg string) bool { return strings.HasPrefix(arg, "-test.timeout") }) {
		args = append(args, "-test.timeout="+suiteTimeout.String())
	}
	cmd := exec.Command(filepath.Join(dir, binary), append(args, s.args...)...)
	cmd.Dir, cmd.Env = filepath.Join(dir, s.pkg), append(os.Environ(), cmp.Or(s.env, "ASIDE_TEST_REQUIRE_REDIS=1"), "TMPDIR="+dir)
	return untilOneFails(cmd)
}

// named matches the part of a failed test's name that a patch file records: the test, and for
// a conformance suite also its case, as the whole suite is slow.
var named = regexp.MustCompile(`^\w+(?:_Conformance/\w+)?`)

// These match lines of go test's output: a test that failed, passed, or begins or goes on;
// lines without use in a report; and in the stacks of a timeout or a panic the test that was
// running.
var (
	hasFailed = regexp.MustCompile(`--- FAIL: (\S+)`)
	hasPassed = regexp.MustCompile(`--- PASS: (\S+)`)
	hasBegun  = regexp.MustCompile(`^=== (?:RUN|CONT) +(\S+)`)
	noise     = regexp.MustCompile(`^(=== |\s*--- (PASS|SKIP)|\d{4}/\d\d/\d\d |redis: )`)
	running   = regexp.MustCompile(`(?m)^\t\t((?:Test|Fuzz|Example)\S+) \(|_test\.((?:Test|Fuzz|Example)\w+)[.(]`)
)

// unnamed stands in for the test's name when the output has none.
const unnamed = "a panic, or goroutines that are left"

// untilOneFails runs tests and kills them when one has failed, so as not to wait for those that
// run beside it.
func untilOneFails(cmd *exec.Cmd) (outcome, error) {
	got := outcome{passed: make(map[string]bool)}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return got, err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return got, err
	}
	var text strings.Builder
	last := unnamed // test that has begun or gone on
	for lines := bufio.NewReader(out); err == nil; {
		var line string
		line, err = lines.ReadString('\n')
		if !noise.MatchString(line) {
			text.WriteString(line)
		}
		if m := hasBegun.FindStringSubmatch(line); m != nil {
			last = m[1]
		}
		if m := hasPassed.FindStringSubmatch(line); m != nil {
			got.passed[m[1]] = true
		}
		// The line of a subtest that failed follows that of its test.
		if m := hasFailed.FindStringSubmatch(line); m != nil && (got.failed == "" || strings.HasPrefix(m[1], got.failed+"/")) {
			got.failed = m[1]
			_ = cmd.Process.Kill()
		}
	}
	got.report = text.String()
	if err := cmd.Wait(); err != nil && got.failed == "" {
		got.failed = last
		if m := running.FindStringSubmatch(got.report); m != nil {
			got.failed = cmp.Or(m[1], m[2])
		}
	}
	return got, nil
}
