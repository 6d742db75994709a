// Package secrettest is for tests that a program shows no secret: they put [Secret] into each
// setting that may hold one, and look for it in all output ([Check]).
//
// Such a test is worth as much as its list of settings is complete. [Fields] and [Variables]
// find the settings in the code, and [Classified] fails when one is on no list, so that a
// new setting has to be judged by its author. The tests of the library and those of the chat
// server in examples have such lists.
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

// core is the part of Secret that is looked for. No escape for URLs, JSON or Go changes it.
const core = "Pl4ntedS3cret"

// Secret is the value to put into settings. It has characters that URLs, JSON and %q escape, as
// code that replaces a secret in a text often forgets the escaped form.
const Secret = core + `"\&%é`

// InURL is Secret as a URL has it as user name or password.
var InURL = url.QueryEscape(Secret)

// forms has the texts that show core, by the names of the encodings.
var forms = func() map[string]string {
	forms := map[string]string{"text": core, "hexadecimal": hex.EncodeToString([]byte(core))}
	var escaped strings.Builder
	for _, b := range []byte(core) {
		fmt.Fprintf(&escaped, "%%%02x", b)
	}
	forms["URL-escaped"] = escaped.String()
	forms["a list of bytes"] = strings.Trim(fmt.Sprint([]byte(core)), "[]")
	for before := range 3 { // core may begin at any of the three bytes that four letters encode
		text := make([]byte, before, before+len(core))
		text = append(text, core...)
		text = text[:len(text)/3*3]
		encoded := base64.StdEncoding.EncodeToString(text)
		forms["base64, "+strconv.Itoa(before)] = encoded[(before+2)/3*4:]
	}
	return forms
}()

// Found returns a description of the secret that output contains, with its form and the output
// around it, or "" if there is none.
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

// Check fails the test if output contains a secret. where names the output, for the message.
func Check(t testing.TB, where, output string) {
	t.Helper()
	if found := Found(output); found != "" {
		t.Errorf("%s: %s", where, found)
	}
}

// Printed returns v formatted with each verb that a user may print it with.
func Printed(v any) string {
	return fmt.Sprintf("%v\n%+v\n%#v\n%s\n%q\n%x\n%d", v, v, v, v, v, v, v)
}

// secretWord matches a word in the name of a setting that may be secret.
var secretWord = regexp.MustCompile(`(?i)^(pass|password|passwd|passphrase|pw|pwd|secret|token|key|apikey|url|uri|dsn|cred|credential|auth|authorization|user|username|login|cert|certificate|private|header|headers|cookie|session|salt|signature|tls)s?$`)

// words matches the words of NameOfAField.
var words = regexp.MustCompile(`[A-Z]+(?:[A-Z][a-z]|$)|[A-Z]?[a-z0-9]+|[A-Z0-9]+`)

// IsSecretName reports whether the name of a setting, NAME_OF_A_VARIABLE or NameOfAField, has a
// word in it such as PASSWORD or URL, so that the value may be a secret or contain one.
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

// Fields returns the paths of those fields of the struct v that may hold a secret, such as
// Config.Redis.URL: all strings and lists of strings, and fields for which IsSecretName
// reports true. It goes into structs in v.
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

// variable matches the names of environment variables, and prefixes of such names.
var variable = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*_?$`)

// Variables returns the names of environment variables in a Go file: all string literals of
// the form NAME_OF_A_VARIABLE. One that ends with _ is a prefix of several.
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

// Classified fails the test for each of names that is in neither of the lists, or in both, and
// for each entry of the lists that is not in names any more. planted has the settings that
// the test puts a secret into, and harmless the reasons why the others cannot hold one.
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
