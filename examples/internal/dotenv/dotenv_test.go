package dotenv_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cacheaside/aside/examples/internal/dotenv"
)

// environment is the process's, for each form.
var environment = map[string]string{"ENV": "env", "EMPTY": ""}

const (
	absent  = "(absent)"
	empty   = "(empty)"
	refused = "(refused)" // by a program that does so; others skip the line, or warn
	same    = ""          // as we take it
)

// forms are lines of a .env file for the variable A, and the values that programs read from
// them: Parse, python-dotenv 1.2 (load_dotenv), Node's dotenv 16 and sh (set -a; . ./.env). All columns were measured; TestParse_AsPython measures python-dotenv's again.
// A row with an err must fail.
var forms = []struct {
	name, file           string
	we, python, node, sh string
	err                  string // part of our error
	named                bool   // our error names the variable A
}{
	// Plain values.
	{name: "plain", file: "A=1", we: "1"},
	{name: "blanks around", file: "  A  =  1 2  \n", we: "1 2", sh: refused},
	{name: "empty", file: "A=", we: empty},
	{name: "an = in it", file: "A=a=b==", we: "a=b=="},
	{name: "export", file: "export A=1", we: "1"},
	{name: "a dash in a name", file: "MY-VAR=1\nA=1", we: "1"},
	{name: "a quoted name", file: "'A'=1", we: "1", node: absent, sh: refused},
	{name: "CRLF", file: "A=1\r\nB=2\r\n", we: "1", sh: "1\r"},
	{name: "CR", file: "B=2\rA=1", we: "1", sh: absent},
	{name: "the last one", file: "A=1\nA=2", we: "2"},
	{name: "a bare name that the environment has", file: "ENV\nA=1", we: "1", sh: refused},
	{name: "a byte-order mark", file: "\ufeffA=1", we: "1", python: absent, sh: refused},
	{name: "Korean", file: "A=안녕 # 주석", we: "안녕"},
	{name: "a no-break space at the end", file: "A=1\u00a0", we: "1", sh: "1\u00a0"},

	// Dollars.
	{name: "$ and letters", file: "A=xT$27ab", we: "xT$27ab", sh: "xT7ab"},
	{name: "$NAME", file: "A=$UPERSECRET9", we: "$UPERSECRET9", sh: empty},
	{name: "$NAME that is set", file: "A=$ENV", we: "$ENV", sh: "env"},
	{name: "$NAME in double quotes", file: `A="a$ENV"`, we: "a$ENV", sh: "aenv"},
	{name: "$(command)", file: "A=$(echo x)", we: "$(echo x)", sh: "x"},
	{name: "$$", file: "A=a$$b", we: "a$$b", sh: "a(its id)b"},
	{name: "a URL with a $", file: "A=redis://:s3$CRET9@h:6379/0", we: "redis://:s3$CRET9@h:6379/0", sh: "redis://:s3@h:6379/0"},
	{name: "${NAME} of the environment", file: "A=<${ENV}>", we: "<env>", node: "<${ENV}>", sh: refused},
	{name: "${NAME} of an earlier line", file: "B=2\nA=${B}${B}", we: "22", node: "${B}${B}"},
	{name: "${NAME} of both", file: "ENV=file\nA=${ENV}", we: "env", node: "${ENV}", sh: "file"},
	{name: "${NAME} that is empty", file: "A=a${EMPTY}b", we: "ab", node: "a${EMPTY}b"},
	{name: "${NAME} in double quotes", file: `A="${ENV} x"`, we: "env x", node: "${ENV} x"},
	{name: "${NAME} in single quotes", file: "A='${ENV}'", we: "env", node: "${ENV}", sh: "${ENV}"},
	{name: "a value is not expanded again", file: "B=${ENV:-x}$\nC={ENV}\nA=${B}${C}", we: "env${ENV}", node: "${B}${C}"},
	{name: "a default", file: "A=${NONE:-d e}", we: "d e", node: "${NONE:-d e}"},
	{name: "an empty default", file: "A=a${NONE:-}", we: "a", node: "a${NONE:-}"},
	{name: "a default that is not needed", file: "A=${ENV:-d}", we: "env", node: "${ENV:-d}"},
	{name: "a default for an empty one", file: "A=${EMPTY:-d}", we: empty, node: "${EMPTY:-d}", sh: "d"},
	{name: "an open brace", file: "A=a${ENV", we: "a${ENV", sh: refused},
	{name: "another operator", file: "A=a${ENV:+x}", we: "a${ENV:+x}", sh: "ax"},
	{name: "unknown, of no use", file: "ENV=${NONE}\nA=1", we: "1"},
	{name: "unknown", file: "# x\nA=redis://:${PW}@h", python: "redis://:@h", node: "redis://:${PW}@h", sh: "redis://:@h", err: "line 2: A: ${PW} is set neither", named: true},
	{name: "unknown, perhaps a secret", file: "A=${hunter2}", python: empty, node: "${hunter2}", sh: empty, err: "line 1: A: ${…} is set neither", named: true},
	{name: "unknown in single quotes", file: "A='${NONE}'", python: empty, node: "${NONE}", sh: "${NONE}", err: "line 1: A: ${NONE}", named: true},
	{name: "set later", file: "A=${B}\nB=1", python: empty, node: "${B}", sh: empty, err: "line 1: A: ${B}", named: true},
	{name: "no name", file: "A=${}", python: empty, node: "${}", sh: refused, err: "line 1: A: ${…}", named: true},
	{name: "a default in a default", file: "A=${NONE:-${ENV}}", python: "${ENV}", node: "${NONE:-${ENV}}", sh: "env", err: "line 1: A: the default", named: true},

	// Comments.
	{name: "a comment", file: "# x\n  # y\nA=1", we: "1"},
	{name: "a comment after a value", file: "A=1800  # 30 min (see issue # 12)", we: "1800"},
	{name: "a comment after a tab", file: "A=1\t# x", we: "1"},
	{name: "a # in a value", file: "A=a#b", we: "a#b", node: "a"},
	{name: "a # at the start", file: "A=#b", we: "#b", node: empty},
	{name: "a comment for a value", file: "A=  # none", we: empty, python: "# none"},
	{name: "a comment for a value, perhaps a secret", file: "A= #x9", we: empty, python: "#x9"},
	{name: "a comment after a quote", file: `A="a # b" # c`, we: "a # b"},
	{name: "a comment at a quote", file: `A="a"# c`, we: "a", sh: refused},
	{name: "a quote in a comment", file: "A=1 # it's\nB=2", we: "1"},

	// Quotes.
	{name: "single quotes", file: "A='a b'", we: "a b"},
	{name: "double quotes", file: `A="a b"`, we: "a b"},
	{name: "empty quotes", file: `A=""`, we: empty},
	{name: "blanks in quotes", file: `A=" a "`, we: " a "},
	{name: "backquotes", file: "A=`a b`", we: "`a b`", node: "a b", sh: refused},
	{name: "the other quote in it", file: `A="it's"`, we: "it's"},
	{name: "a quote inside", file: `A=it"s`, we: `it"s`, sh: refused},
	{name: "escapes in double quotes", file: `A="\\\"\'\n\t\r\a\b\f\v\z"`, we: "\\\"'\n\t\r\a\b\f\v\\z", node: "\\\\\\\"\\'\n\\t\r\\a\\b\\f\\v\\z", sh: `\"\'\n\t\r\a\b\f\v\z`},
	{name: "escapes in single quotes", file: `A='\\ \' \n'`, we: `\ ' \n`, node: `\\ \' \n`, sh: refused},
	{name: "escapes without quotes", file: `A=\n\\`, we: `\n\\`, sh: `n\`},
	{name: "two lines", file: "A=\"a\r\n#b\"\nB=2", we: "a\n#b", sh: "a\r\n#b"},
	{name: "two lines in single quotes", file: "A='a\nb=c'", we: "a\nb=c"},

	// Refused.
	{name: "a ; line", file: "; hunter2\nA=1", python: "1", node: "1", sh: refused, err: "line 1: a comment begins with #"},
	{name: "an open single quote", file: "B=1\n\nA='hunter2\nC=1", python: absent, node: "'hunter2", sh: refused, err: "line 3: A: the single quote is not closed", named: true},
	{name: "an open double quote", file: "A=\"hunter2\nC=1\n", python: absent, node: `"hunter2`, sh: refused, err: "line 1: A: the double quote is not closed", named: true},
	{name: "an open quote at a name", file: "'A=hunter2", python: absent, node: absent, sh: refused, err: "line 1: the quote at the start"},
	{name: "text after quotes", file: "A='it's hunter2'", python: absent, node: "it's hunter2", sh: refused, err: "line 1: A: there is text after the closing single quote, on line 1", named: true},
	{name: "text after quotes of the next line", file: "A='hunter2\nB='x'", python: absent, node: "'hunter2", sh: refused, err: "line 1: A: there is text after the closing single quote, on line 2", named: true},
	{name: "a bare name", file: "B=1\nA\n", python: absent, node: absent, sh: refused, err: "line 2: A: there is no =", named: true},
	{name: "a bare name after a value", file: "A=1\nA", python: absent, node: "1", sh: refused, err: "line 2: A: there is no =", named: true},
	{name: "a bare name after export", file: "export A", python: absent, node: absent, sh: absent, err: "line 1: A: there is no =", named: true},
	{name: "a bare name in quotes", file: "'A'", python: absent, node: absent, sh: refused, err: "line 1: A: there is no =", named: true},
	{name: "a bare name with a comment", file: "A # hunter2", python: absent, node: absent, sh: refused, err: "line 1: A: there is no =", named: true},
	{name: "a bare name with a default elsewhere", file: "B\nA=${B:-d}", python: empty, node: "${B:-d}", sh: "d", err: "line 1: B: there is no ="},
	{name: "a bare name, perhaps a secret", file: "hunter2\nA=1", python: "1", node: "1", sh: refused, err: "line 1: want NAME=value"},
	{name: "a bare name with a dash", file: "MY-VAR\nA=1", python: "1", node: "1", sh: refused, err: "line 1: want NAME=value"},
	{name: "export alone", file: "export\nA=1", python: "1", node: "1", sh: "1", err: "line 1: want NAME=value"},
	{name: "no =", file: "A hunter2", python: absent, node: absent, sh: refused, err: "line 1: want NAME=value"},
	{name: "a : for an =", file: "A:hunter2\n", python: absent, node: absent, sh: refused, err: "line 1: want NAME=value"},
	{name: "a blank in a name", file: "A hunter2=1", python: absent, node: absent, sh: refused, err: "line 1: want NAME=value"},
	{name: "export of nothing", file: "export \nA=1", python: "1", node: "1", sh: "1", err: "line 1: there is no name"},
	{name: "no name before =", file: "\n=hunter2\nA=1", python: "1", node: "1", sh: "1", err: "line 2: there is no name"},
	{name: "UTF-16", file: "\xff\xfeA\x00=\x001\x00", python: refused, node: absent, sh: refused, err: "UTF-16"},
	{name: "UTF-16 without a mark", file: "A\x00=\x001\x00", python: refused, node: absent, sh: "1", err: "UTF-16"},
	{name: "Latin-1", file: "B=1\nA=caf\xe9", python: refused, node: "caf�", sh: "caf\xe9", err: "line 2: a byte is not UTF-8"},
}

// was is how the table has a value of A.
func was(value string, ok bool) string {
	switch {
	case !ok:
		return absent
	case value == "":
		return empty
	}
	return value
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, form := range forms {
		values, _, err := dotenv.Parse([]byte(form.file), environment)
		if form.err != "" {
			if err == nil || !strings.Contains(err.Error(), form.err) || strings.Contains(err.Error(), "hunter2") ||
				form.named != strings.Contains(err.Error(), ": A: ") {
				t.Errorf("%s: %q: the error is %v", form.name, form.file, err)
			}
			continue
		}
		value, ok := values["A"]
		if got := was(value, ok); err != nil || got != form.we {
			t.Errorf("%s: %q: got %q, %v; want %q", form.name, form.file, got, err, form.we)
		}
		for name := range environment {
			if value, ok := values[name]; ok {
				t.Errorf("%s: %s=%q is over the environment", form.name, name, value)
			}
		}
	}
}

// All mistakes are reported at once, but none after a quote that is not closed, as the text
// there may be a secret.
func TestParse_ManyMistakes(t *testing.T) {
	t.Parallel()
	_, _, err := dotenv.Parse([]byte("A=1\n;x\nB=${NONE}\nC='x'\nhunter2 hunter2\nD='${NONE}'\nE='hunter2\nhunter2=${NONE}\n"), nil)
	const want = `line 2: a comment begins with #, not with ;
line 3: B: ${NONE} is set neither before this line nor in the environment, and has no default as in ${NAME:-default}
line 5: want NAME=value
line 6: D: ${NONE} is set neither before this line nor in the environment, and has no default as in ${NAME:-default}
line 7: E: the single quote is not closed`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// A # that follows a blank begins a comment, also where it begins the rest of a password.
func TestParse_TextThatIsTakenForAComment(t *testing.T) {
	t.Parallel()
	const warning = `: the text behind " #" is taken for a comment; if it belongs to the value, put quotes around all of it`
	for file, want := range map[string]string{
		"A= #hunter2":          "line 1: A" + warning,
		"B=1\nA=hunter2\t#2 x": "line 2: A" + warning,
		"A=it's #hunter2":      "line 1: A" + warning,
		"A=a # b #hunter2":     "line 1: A" + warning,
		"export A= #x\nA=1":    "line 1: A" + warning,
		"A=1 # a comment":      "",
		"A= # none":            "",
		"A=1 ## none":          "",
		"A=1 #":                "",
		"A=#hunter2":           "", // the value
		"A=a#hunter2":          "",
		"A='a #hunter2'":       "",
		`A="a" #hunter2`:       "",
		"A=1\n #hunter2":       "",
		"#A= #hunter2":         "",
		"ENV= #hunter2":        "", // the environment's is used
	} {
		_, warnings, err := dotenv.Parse([]byte(file), environment)
		if got := strings.Join(warnings, "\n"); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", file, got, err, want)
		}
	}
}

// The column of python-dotenv agrees with python-dotenv, where it is installed.
func TestParse_AsPython(t *testing.T) {
	t.Parallel()
	const script = `import dotenv, io, json, os, sys, tempfile
before = dict(os.environ)
for line in sys.stdin:
    os.environ.clear()
    os.environ.update(before)
    try:
        with tempfile.NamedTemporaryFile() as f:
            f.write(bytes(json.loads(line)))
            f.flush()
            dotenv.load_dotenv(f.name)
        out = os.environ.get("A", "(absent)") or "(empty)"
    except ValueError:
        out = "(refused)"
    print(json.dumps(out))`
	python := cmp.Or(os.Getenv("ASIDE_TEST_PYTHON"), "python3")
	if exec.Command(python, "-c", "import dotenv.parser").Run() != nil {
		t.Skip("want python3 with python-dotenv")
	}
	var in, out bytes.Buffer
	for _, form := range forms {
		file := []int{} // not []byte, which is base64 in JSON
		for _, b := range []byte(form.file) {
			file = append(file, int(b))
		}
		if err := json.NewEncoder(&in).Encode(file); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", script)
	cmd.Stdin, cmd.Stdout = &in, &out
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	for name, value := range environment {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	results := json.NewDecoder(&out)
	for _, form := range forms {
		var got string
		if err := results.Decode(&got); err != nil {
			t.Fatal(err)
		}
		want := form.python
		if want == same {
			want = form.we
		}
		if got != want {
			t.Errorf("%s: %q: python-dotenv takes %q, the table says %q", form.name, form.file, got, want)
		}
	}
}
