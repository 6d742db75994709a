// Package secrettest is for tests that plant a secret in each setting that may hold one,
// and then look for it in all that a program says.
package secrettest

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// core is in each secret. No escape for URLs, JSON or Go changes its letters.
const core = "Pl4ntedS3cret"

// Secret is planted by tests. It has characters that URLs, JSON and %q escape.
const Secret = core + `"\&%é`

// InURL is Secret as it stands in the user's part of a URL.
var InURL = url.QueryEscape(Secret)

// forms are the texts that show core, by their names.
var forms = func() map[string]string {
	forms := map[string]string{"text": core, "hexadecimal": hex.EncodeToString([]byte(core))}
	var escaped strings.Builder
	for _, b := range []byte(core) {
		fmt.Fprintf(&escaped, "%%%02x", b)
	}
	forms["URL-escaped"] = escaped.String()
	forms["a list of bytes"] = strings.Trim(fmt.Sprint([]byte(core)), "[]")
	for before := range 3 { // it begins anywhere in what is encoded
		text := make([]byte, before, before+len(core))
		text = append(text, core...)
		text = text[:len(text)/3*3]
		encoded := base64.StdEncoding.EncodeToString(text)
		forms["base64, "+strconv.Itoa(before)] = encoded[(before+2)/3*4:]
	}
	return forms
}()

// Found returns in which form a secret is in output, and the output around it, or "".
func Found(output string) string {
	lower := strings.ToLower(output)
	for _, name := range slices.Sorted(maps.Keys(forms)) {
		text, in := forms[name], output
		if !strings.HasPrefix(name, "base64") {
			text, in = strings.ToLower(text), lower
		}
		if i := strings.Index(in, text); i >= 0 {
			return fmt.Sprintf("a secret, as %s, in …%s…", name, in[max(0, i-200):min(len(in), i+len(text)+60)])
		}
	}
	return ""
}

// Check fails the test when a secret is in output, which a reader gets from where.
func Check(t testing.TB, where, output string) {
	t.Helper()
	if found := Found(output); found != "" {
		t.Errorf("%s: %s", where, found)
	}
}

// Printed returns v in all the ways in which a stranger would print it.
func Printed(v any) string {
	return fmt.Sprintf("%v\n%+v\n%#v\n%s\n%q\n%x\n%d", v, v, v, v, v, v, v)
}

var secretWord = regexp.MustCompile(`(?i)^(pass|password|passwd|passphrase|pw|pwd|secret|token|key|apikey|url|uri|dsn|cred|credential|auth|authorization|user|username|login|cert|certificate|private|header|headers|cookie|session|salt|signature|tls)s?$`)

var words = regexp.MustCompile(`[A-Z]+(?:[A-Z][a-z]|$)|[A-Z]?[a-z0-9]+|[A-Z0-9]+`)

// IsSecretName reports whether a setting's name, NAME_OF_A_VARIABLE or NameOfAField, looks
// as if its value were secret or had a secret in it.
func IsSecretName(name string) bool {
	if strings.ToUpper(name) == name {
		return slices.ContainsFunc(strings.Split(name, "_"), secretWord.MatchString)
	}
	// Acronyms first: TLSConfig is TLS and Config.
	for _, acronym := range []string{"TLS", "URL", "URI", "DSN", "API"} {
		name = strings.ReplaceAll(name, acronym, " "+acronym+" ")
	}
	var list []string
	for part := range strings.FieldsSeq(name) {
		list = append(list, words.FindAllString(part, -1)...)
	}
	return slices.ContainsFunc(list, secretWord.MatchString)
}

// Fields returns the paths of v's fields, Config.Redis.URL, in structs below v too, that a
// secret may be in: those whose names look like it, and all texts.
func Fields(v any) []string {
	var paths []string
	var walk func(path string, typ reflect.Type)
	walk = func(path string, typ reflect.Type) {
		for i := range typ.NumField() {
			field := typ.Field(i)
			path := path + "." + field.Name
			switch kind := field.Type; {
			case kind.Kind() == reflect.Struct:
				walk(path, kind)
			case kind.Kind() == reflect.String, IsSecretName(field.Name),
				(kind.Kind() == reflect.Slice || kind.Kind() == reflect.Map) && kind.Elem().Kind() == reflect.String:
				paths = append(paths, path)
			}
		}
	}
	walk(reflect.TypeOf(v).Name(), reflect.TypeOf(v))
	return paths
}

var variable = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*_?$`)

// Variables returns the names of environment variables in a Go file: those texts of it that
// are written as such names are. One that ends with _ is a prefix.
func Variables(t testing.TB, file string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	ast.Inspect(parsed, func(n ast.Node) bool {
		if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
			if name, err := strconv.Unquote(text.Value); err == nil && variable.MatchString(name) && len(name) > 1 {
				names[name] = true
			}
		}
		return true
	})
	return slices.Sorted(maps.Keys(names))
}

// Classified fails the test for each name that is neither planted nor harmless, and for
// each of these that is none of names any more, so that the lists stay true.
func Classified(t testing.TB, names []string, planted, harmless map[string]string) {
	t.Helper()
	for _, name := range names {
		_, isPlanted := planted[name]
		why, isHarmless := harmless[name]
		switch {
		case !isPlanted && !isHarmless:
			t.Errorf("%s may be secret: plant a secret in it, or say in the list of harmless ones why it is none", name)
		case isPlanted && isHarmless:
			t.Errorf("%s is planted, and called harmless", name)
		case isHarmless && why == "":
			t.Errorf("%s is called harmless without a reason", name)
		}
	}
	for _, list := range []map[string]string{planted, harmless} {
		for name := range list {
			if !slices.Contains(names, name) {
				t.Errorf("%s is in a list, and no setting", name)
			}
		}
	}
}
