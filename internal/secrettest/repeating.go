package secrettest

import (
	"bufio"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Repeating starts a server that quotes commands in its errors, as some servers and proxies do,
// and returns its address. It answers a command with text if answers is true for its name,
// in lower case, and replaces %s in it by the command's arguments. Any other command is
// unknown to it. It ends with the test.
//
// A password that the client sends in AUTH or HELLO so comes back in an error, which the
// cache must not pass on.
func Repeating(t *testing.T, text string, answers func(command string) bool) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			conns.Go(func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					words, err := wordsFrom(r)
					if err != nil {
						return
					}
					answer := "-ERR unknown command '" + words[0] + "'"
					if answers(strings.ToLower(words[0])) {
						answer = "-" + strings.ReplaceAll(text, "%s", strings.Join(words[1:], "' '"))
					}
					answer = strings.NewReplacer("\r", " ", "\n", " ").Replace(answer)
					if _, err := conn.Write([]byte(answer + "\r\n")); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return l.Addr().String()
}

// wordsFrom reads a command and its arguments.
func wordsFrom(r *bufio.Reader) (words []string, err error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	for i := 0; i < n && err == nil; i++ {
		if line, err = r.ReadString('\n'); err != nil {
			break
		}
		var size int
		if size, err = strconv.Atoi(strings.TrimSpace(line[1:])); err != nil {
			break
		}
		word := make([]byte, size+2)
		for read := 0; read < len(word) && err == nil; {
			var k int
			k, err = r.Read(word[read:])
			read += k
		}
		words = append(words, string(word[:size]))
	}
	if err == nil && len(words) == 0 {
		err = errors.New("no command")
	}
	return words, err
}
