package aside_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pagesOfContributors are for people who change the library. Their text in backquotes
// is a command, a file, or a name in the code.
var pagesOfContributors = []string{"CONTRIBUTING.md", "docs/releasing.md"}

// elsewhere are names in the page that are none of this repository's code.
var elsewhere = []string{"t.Parallel", "testing/synctest", "time.Sleep", "Unreleased"}

var (
	inBackquotes = regexp.MustCompile("`([^`]+)`")
	makeTarget   = regexp.MustCompile(`\bmake((?: +[a-z][a-z-]*)+)`)
	ruleOfMake   = regexp.MustCompile(`(?m)^([a-z][a-z-]*):`)
	fileName     = regexp.MustCompile(`^(\./)?[\w.-]+(/[\w.-]+)*$`)
	fileEnding   = regexp.MustCompile(`\.(go|md|mod|yaml|yml|json|sh)$`)
)

func fileText(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Pages and the workflow name only targets that the Makefile has, and the Makefile lists
// each as phony.
func TestContributing_MakeTargets(t *testing.T) {
	t.Parallel()
	makefile := fileText(t, "Makefile")
	var rules []string
	for _, m := range ruleOfMake.FindAllStringSubmatch(makefile, -1) {
		rules = append(rules, m[1])
		if !regexp.MustCompile(`(?m)^\.PHONY:.* ` + m[1] + `( |$)`).MatchString(makefile) {
			t.Errorf("the Makefile's target %s is not phony", m[1])
		}
	}
	for _, file := range append([]string{".github/workflows/ci.yml"}, pagesOfContributors...) {
		var named []string
		for _, line := range commandsIn(file, fileText(t, file)) {
			for _, m := range makeTarget.FindAllStringSubmatch(line, -1) {
				named = append(named, strings.Fields(m[1])...)
			}
		}
		if !slices.Contains(named, "ci") || !slices.Contains(named, "nightly") {
			t.Errorf("%s names the targets %v, want ci and nightly among them", file, named)
		}
		for _, name := range named {
			if !slices.Contains(rules, name) {
				t.Errorf("%s names make %s; want one of %v", file, name, rules)
			}
		}
	}
}

// commandsIn returns the texts of a file in which a command may stand: the run lines of a
// workflow, and the blocks and backquotes of a page.
func commandsIn(file, text string) (lines []string) {
	if strings.HasSuffix(file, ".yml") {
		for _, m := range regexp.MustCompile(`run: (.*)`).FindAllStringSubmatch(text, -1) {
			lines = append(lines, m[1])
		}
		return lines
	}
	for i, part := range strings.Split(text, "```") {
		if i%2 == 1 {
			lines = append(lines, part)
			continue
		}
		for _, m := range inBackquotes.FindAllStringSubmatch(part, -1) {
			lines = append(lines, m[1])
		}
	}
	return lines
}

// Every file, package, test, example, flag and name of the code that CONTRIBUTING.md names is there.
func TestContributing_NamesExist(t *testing.T) {
	t.Parallel()
	page := fileText(t, "CONTRIBUTING.md")
	for _, m := range link.FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(m[1]); err != nil {
			t.Errorf("it links to %s: %v", m[1], err)
		}
	}
	known := declaredIn(t, ".", "asidetest", "asideotel", "asideprom", "backend", "examples/cachehttp", "internal/redistest", "internal/settings", "proof")
	var files, names int
	for _, m := range inBackquotes.FindAllStringSubmatch(page, -1) {
		switch word := m[1]; {
		case slices.Contains(elsewhere, word):
		case fileEnding.MatchString(word) || strings.Contains(word, "/") && fileName.MatchString(word):
			files++
			if _, err := os.Stat(word); err != nil {
				t.Errorf("it names %s: %v", word, err)
			}
		case token.IsIdentifier(word) && word != strings.ToLower(word), strings.Contains(word, ".") && fileName.MatchString(word):
			names++
			parts := strings.Split(word, ".")
			if name := parts[len(parts)-1]; !known[name] {
				t.Errorf("it names %s, which is declared nowhere", word)
			}
		case strings.HasPrefix(word, "go "):
			checkGoCommand(t, word, known)
		}
	}
	if files < 20 || names < 20 {
		t.Errorf("got %d files and %d names of the code, want 20 of each", files, names)
	}
}

// A variable that is read is one that internal/settings knows, and is not reported.
func TestContributing_EverySettingIsKnown(t *testing.T) {
	t.Parallel()
	for _, name := range variables(t) {
		if strings.HasSuffix(name, "_") {
			name += "X"
		}
		cfg, _ := fromEnv(map[string]string{name: "1"}) // the value may be wrong
		for _, warning := range cfg.Warnings {
			if strings.Contains(warning, "is not a setting") {
				t.Errorf("%s is read, and reported: %s", name, warning)
			}
		}
	}
}

// checkGoCommand looks for the package of a command, the test or fuzz target that it runs,
// the flags that are the package's own, and the breakage.
func checkGoCommand(t *testing.T, command string, known map[string]bool) {
	t.Helper()
	pkg := regexp.MustCompile(` (\.\S*)`).FindStringSubmatch(command)
	if pkg == nil {
		t.Fatalf("%s names no package", command)
	}
	if sources, _ := os.ReadDir(pkg[1]); !slices.ContainsFunc(sources, func(e os.DirEntry) bool { return path.Ext(e.Name()) == ".go" }) {
		t.Errorf("%s: no package is in %s", command, pkg[1])
	}
	for _, m := range regexp.MustCompile(`\b(?:Test|Fuzz)\w+`).FindAllString(command, -1) {
		if !known[m] {
			t.Errorf("%s: %s is declared nowhere", command, m)
		}
	}
	if name := regexp.MustCompile(`proof/mutate -run '(.*)'`).FindStringSubmatch(command); name != nil {
		if !strings.Contains(fileText(t, "docs/breakages.md"), name[1]) {
			t.Errorf("%s: docs/breakages.md has no such breakage", command)
		}
	}
	if strings.Contains(command, " -seed ") && !known["seed"] {
		t.Errorf("%s: there is no flag -seed", command)
	}
}

// declaredIn returns the names that the Go files of some folders declare, those of fields,
// methods and local variables of packages among them.
func declaredIn(t *testing.T, folders ...string) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	for _, folder := range folders {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if path.Ext(e.Name()) != ".go" {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path.Join(folder, e.Name()), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					names[n.Name.Name] = true
				case *ast.TypeSpec:
					names[n.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range n.Names {
						names[name.Name] = true
					}
				case *ast.Field:
					for _, name := range n.Names {
						names[name.Name] = true
					}
				}
				return true
			})
		}
	}
	return names
}
