// Package redact takes secrets out of errors whose text comes from elsewhere: a server
// or a proxy may repeat a command, as "ERR unknown command 'AUTH', with args
// beginning with: 'the password'" does.
package redact

import (
	"cmp"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
)

// Shown stands in the place of a secret.
const Shown = "***"

// Secrets are texts that no error may show. The zero value has none, and still takes the
// arguments of a command out of a reply that repeats them.
type Secrets struct {
	texts []string
	names []string // of users: taken out of replies alone, for a host may be called the same
}

// New returns the Secrets that take passwords out of errors, and names of users out of the
// replies in them. Passwords are found as they are, quoted, and escaped as in a URL. Empty ones,
// and the user default, are none.
func New(passwords, names []string) Secrets {
	var s Secrets
	for _, name := range names {
		if name != "" && name != "default" {
			s.names = append(s.names, name)
		}
	}
	for _, secret := range passwords {
		if secret == "" {
			continue
		}
		quoted := strconv.Quote(secret)
		for _, form := range []string{secret, quoted[1 : len(quoted)-1], url.QueryEscape(secret), url.PathEscape(secret)} {
			if !slices.Contains(s.texts, form) {
				s.texts = append(s.texts, form)
			}
		}
	}
	// One may be a part of another.
	slices.SortFunc(s.texts, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return s
}

// repeated is how Redis and its like begin to repeat the arguments of a command that
// they do not know. The arguments may also be keys and values, or a part of a secret.
const repeated = "args beginning with:"

// Text returns text without the secrets.
func (s Secrets) Text(text string) string {
	if strings.Contains(text, repeated) {
		lines := strings.Split(text, "\n") // of errors that were joined
		for i, line := range lines {
			if before, _, found := strings.Cut(line, repeated); found {
				lines[i] = before + repeated + " " + Shown
			}
		}
		text = strings.Join(lines, "\n")
	}
	for _, secret := range s.texts {
		text = replace(text, secret)
	}
	return text
}

// reply returns the text of a reply without the secrets and the users' names.
func (s Secrets) reply(text string) string {
	text = s.Text(text)
	for _, name := range s.names {
		text = replace(text, name)
	}
	return text
}

// short is the length below which a text may be a part of a word by chance.
const short = 8

// replace replaces secret in text, a short one only where it is a word of its own.
func replace(text, secret string) string {
	var out strings.Builder
	done, from := 0, 0 // the ends of the text in out, and of the text searched
	for {
		i := strings.Index(text[from:], secret)
		if i < 0 {
			out.WriteString(text[done:])
			return out.String()
		}
		start, end := from+i, from+i+len(secret)
		before, _ := utf8.DecodeLastRuneInString(text[:start])
		after, _ := utf8.DecodeRuneInString(text[end:])
		if len(secret) < short && (isWord(before) || isWord(after)) {
			_, size := utf8.DecodeRuneInString(text[start:])
			from = start + size
			continue
		}
		out.WriteString(text[done:start])
		out.WriteString(Shown)
		done, from = end, end
	}
}

func isWord(r rune) bool {
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

// Error returns err if its text shows nothing, and otherwise an error in its place which
// is the same to errors.Is, to redis.HasErrorPrefix and for time-outs.
// errors.As finds nothing in it but the reply, as any other error would show the text.
func (s Secrets) Error(err error) error {
	if err == nil || err == redis.Nil {
		return err
	}
	text := err.Error()
	shown, told := text, ""
	var of redis.Error
	if errors.As(err, &of) {
		told = s.reply(of.Error())
	}
	for _, reply := range replies(err) {
		shown = strings.Replace(shown, reply, s.reply(reply), 1)
	}
	if shown = s.Text(shown); shown == text {
		return err
	}
	switch h := hide(err, shown); {
	case of == nil:
		return h
	case told == shown:
		return reply{h}
	default:
		return wrapped{h, reply{hide(of, told)}}
	}
}

// replies returns the texts of the replies in err, which may be several that were joined.
func replies(err error) []string {
	if reply, ok := err.(redis.Error); ok {
		return []string{reply.Error()}
	}
	switch of := err.(type) {
	case interface{ Unwrap() error }:
		return replies(of.Unwrap())
	case interface{ Unwrap() []error }:
		var all []string
		for _, err := range of.Unwrap() {
			all = append(all, replies(err)...)
		}
		return all
	}
	return nil
}

// hidden stands in the place of an error. It has functions of the error and not the error
// itself, which %#v would print even within an error of others.
type hidden struct {
	text    string
	is      func(target error) bool
	timeout func() bool
}

func hide(err error, text string) hidden {
	return hidden{text, func(target error) bool { return errors.Is(err, target) }, func() bool {
		var timeout interface{ Timeout() bool }
		return errors.As(err, &timeout) && timeout.Timeout()
	}}
}

func (h hidden) Error() string        { return h.text }
func (h hidden) Is(target error) bool { return h.is(target) }
func (h hidden) Timeout() bool        { return h.timeout() }

// reply is a hidden reply of Redis.
type reply struct{ hidden }

func (reply) RedisError() {}

// wrapped is a hidden error with a reply in it.
type wrapped struct {
	hidden
	reply reply
}

func (w wrapped) Unwrap() error { return w.reply }
