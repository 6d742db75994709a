// Package dotenv reads .env files as python-dotenv does, so that a Go and a Python
// service can share one. No library for Go does: godotenv and those made from it
// expand $NAME as well, which takes a $ and the letters after it out of passwords,
// and go-envparse expands nothing. The package's test has a table of all forms.
package dotenv

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Expressions of python-dotenv's parser, with its definition of a blank. Go's regexp
// finds the same matches.
const (
	blank  = `\t\v\f \x1c-\x1f\x{85}\p{Z}` // on one line
	blanks = `[` + blank + `]*`
)

var (
	emptyLines   = regexp.MustCompile(`^[\n` + blank + `]*`)
	spaces       = regexp.MustCompile(`^` + blanks)
	export       = regexp.MustCompile(`^export[` + blank + `]+`)
	plainName    = regexp.MustCompile(`^([^=#\n` + blank + `]+)`)
	quotedName   = regexp.MustCompile(`^'([^']+)'`)
	singleQuoted = regexp.MustCompile(`^'((?:\\'|[^'])*)'`)
	doubleQuoted = regexp.MustCompile(`^"((?:\\"|[^"])*)"`)
	restOfLine   = regexp.MustCompile(`^([^\n]*)`)
	endOfLine    = regexp.MustCompile(`^` + blanks + `(?:#[^\n]*)?(?:\n|$)`)
	comment      = regexp.MustCompile(`[` + blank + `]+#.*`)
	cutShort     = regexp.MustCompile(`^` + blanks + `(?:[^\n` + blank + `'"][^\n]*?)?[` + blank + `]#[^#\n` + blank + `]`)
	trailing     = regexp.MustCompile(blanks + `$`)
	inSingle     = regexp.MustCompile(`\\[\\']`)
	inDouble     = regexp.MustCompile(`\\[\\'"abfnrtv]`)
	variable     = regexp.MustCompile(`\$\{([^}:]*)(:-[^}]*)?\}`)

	// Names that errors show. Other text at a name's place may be part of a secret, as it
	// may be without an = after it, or in a reference, unless it is in upper case.
	shownName      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)
	shownReference = regexp.MustCompile(`^[A-Z_][A-Z0-9_]{0,63}$`)
)

// Parse returns the variables of a .env file. It leaves out those that env has, the
// process's environment, which takes precedence; ${NAME} and ${NAME:-default} are
// replaced from env and from earlier lines, also in quotes of both kinds.
//
// The error has a line for each mistake, with the number of the line in the file and
// the name of the variable, if there is one. It never shows a value. Where
// python-dotenv skips a line, or makes nothing of an unknown ${NAME} or of a name without
// an =, Parse fails. A name without an = that env has is no mistake. The warnings, in the
// same form, are of values that end at a # which was perhaps meant to be part of them.
func Parse(file []byte, env map[string]string) (values map[string]string, warnings []string, err error) {
	text, err := decode(file)
	if err != nil {
		return nil, nil, err
	}
	p := parser{rest: text, line: 1, env: env, values: map[string]string{}}
	for p.take(emptyLines); p.rest != "" && !p.lost; p.take(emptyLines) {
		p.statement()
	}
	if len(p.errs) > 0 {
		return nil, nil, errors.Join(p.errs...)
	}
	values = map[string]string{}
	for name, value := range p.values {
		if _, given := env[name]; !given {
			values[name] = value
		}
	}
	return values, p.warnings, nil
}

// decode returns file as text with lines that end with \n.
func decode(file []byte) (string, error) {
	text := strings.TrimPrefix(string(file), "\ufeff")
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") || strings.ContainsRune(text, 0) {
		return "", errors.New("the file is UTF-16, or holds NUL bytes: want UTF-8")
	}
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size == 1 {
			return "", fmt.Errorf("line %d: a byte is not UTF-8", 1+strings.Count(text[:i], "\n"))
		}
		i += size
	}
	return text, nil
}

type parser struct {
	rest   string // not read yet
	line   int    // of the start of rest
	env    map[string]string
	values map[string]string
	errs   []error
	lost   bool // an unclosed quote hides where the next statement begins

	warnings []string
}

// take reads the text that expr matches at the start of rest, and returns the first group.
func (p *parser) take(expr *regexp.Regexp) (group string, ok bool) {
	m := expr.FindStringSubmatchIndex(p.rest)
	if m == nil {
		return "", false
	}
	if len(m) > 2 {
		group = p.rest[m[2]:m[3]]
	}
	p.line += strings.Count(p.rest[:m[1]], "\n")
	p.rest = p.rest[m[1]:]
	return group, true
}

// at returns text with its line and, if it may be shown, the variable's name.
func at(line int, name, text string) string {
	if shownName.MatchString(name) {
		text = name + ": " + text
	}
	return fmt.Sprintf("line %d: %s", line, text)
}

// statement reads one variable or comment, or reports why it is neither.
func (p *parser) statement() {
	line := p.line
	bad := func(name, format string, args ...any) {
		p.errs = append(p.errs, errors.New(at(line, name, fmt.Sprintf(format, args...))))
	}
	if p.rest[0] == ';' {
		bad("", "a comment begins with #, not with ;")
		p.take(restOfLine)
		return
	}
	p.take(export)
	if strings.HasPrefix(p.rest, "#") {
		p.take(restOfLine)
		return
	}
	expr := plainName
	if strings.HasPrefix(p.rest, "'") {
		expr = quotedName
	}
	name, ok := p.take(expr)
	if !ok && expr == quotedName {
		p.lost = true
		bad("", "the quote at the start of the line is not closed")
		return
	}
	if !ok {
		bad("", "there is no name: want NAME=value")
		p.take(restOfLine)
		return
	}
	p.take(spaces)
	if !strings.HasPrefix(p.rest, "=") {
		_, alone := p.take(endOfLine)
		if !alone {
			p.take(restOfLine)
		}
		_, given := p.env[name]
		switch {
		case alone && given: // Docker's form for a variable of the environment
		case alone && shownReference.MatchString(name):
			bad(name, "there is no = behind the name: want %s=value, or %s= for an empty one", name, name)
		default:
			bad("", "want NAME=value")
		}
		return
	}
	p.rest = p.rest[1:]
	rest := p.rest
	value, reason := p.value()
	if _, given := p.env[name]; reason == "" && !given { // otherwise the value is not used
		value, reason = p.expand(value)
		if cutShort.MatchString(rest) {
			p.warnings = append(p.warnings, at(line, name, `the text behind " #" is taken for a comment; if it belongs to the value, put quotes around all of it`))
		}
	}
	if reason != "" {
		bad(name, "%s", reason)
		return
	}
	p.values[name] = value
}

// value reads the value after an = and the end of its line, or says why it cannot.
func (p *parser) value() (value, reason string) {
	before := len(p.rest)
	p.take(spaces)
	apart := len(p.rest) < before
	expr, kind, escapes := singleQuoted, "single", inSingle
	switch {
	case strings.HasPrefix(p.rest, "'"):
	case strings.HasPrefix(p.rest, `"`):
		expr, kind, escapes = doubleQuoted, "double", inDouble
	case strings.HasPrefix(p.rest, "#") && apart: // python-dotenv takes the comment for the value
		p.take(endOfLine)
		return "", ""
	default:
		value, _ = p.take(restOfLine)
		return trailing.ReplaceAllString(comment.ReplaceAllString(value, ""), ""), ""
	}
	value, ok := p.take(expr)
	if !ok {
		p.lost = true
		return "", "the " + kind + " quote is not closed"
	}
	closed := p.line
	if _, ok := p.take(endOfLine); !ok {
		p.lost = true
		return "", fmt.Sprintf("there is text after the closing %s quote, on line %d", kind, closed)
	}
	return escapes.ReplaceAllStringFunc(value, func(s string) string {
		if i := strings.IndexByte("abfnrtv", s[1]); i >= 0 {
			return "\a\b\f\n\r\t\v"[i : i+1]
		}
		return s[1:]
	}), ""
}

// expand replaces each ${NAME} and ${NAME:-default} in value, or says which it cannot.
func (p *parser) expand(value string) (expanded, reason string) {
	expanded = variable.ReplaceAllStringFunc(value, func(ref string) string {
		m := variable.FindStringSubmatch(ref)
		name, fallback := m[1], m[2]
		if strings.Contains(fallback, "${") {
			reason = "the default of a ${NAME:-default} cannot have a ${NAME} in it"
			return ""
		}
		if text, ok := p.env[name]; ok {
			return text
		}
		if text, ok := p.values[name]; ok {
			return text
		}
		if fallback == "" {
			if !shownReference.MatchString(name) {
				name = "…"
			}
			reason = fmt.Sprintf("${%s} is set neither before this line nor in the environment, and has no default as in ${NAME:-default}", name)
		}
		return strings.TrimPrefix(fallback, ":-")
	})
	return expanded, reason
}
