package aside_test

//lint:file-ignore SA4006 excerpts leave out what is done with each error

import (
	"context"
	"database/sql"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
)

// The README's excerpts are below, so that they are compiled; CI builds its program.
func TestReadme_ExcerptsCompile(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(readme), "```go\n")[1:]
	if len(blocks) != 5 {
		t.Fatalf("%d blocks of Go", len(blocks))
	}
	for _, block := range blocks[1:] {
		block, _, _ = strings.Cut(block, "```\n")
		if !strings.Contains(unindented(string(source)), unindented(block)) {
			t.Errorf("not in readme_test.go:\n%s", block)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)`)

// What a page links to within the repository is there.
func TestReadme_LinksLead(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("got %d pages, %v, want those of docs", len(pages), err)
	}
	for _, page := range append(pages, "README.md", "docs/protocol/RESULTS.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}

func unindented(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimLeft(line, "\t")
	}
	return strings.Join(lines, "\n")
}

type User struct{ Name string }

func selectUser(context.Context, string) (User, error) { return User{}, sql.ErrNoRows }

func saveReply(context.Context, string) error { return nil }

func readmeKeyspace(ctx context.Context, client redis.UniversalClient) (User, error) {
	var users = aside.Keyspace{Name: "user", TTL: 10 * time.Minute, NotFoundTTL: 30 * time.Second}

	// Any redis.UniversalClient of go-redis v9. Keyspaces tells Clear, and a near cache, what is yours.
	cache, err := aside.NewRedis(client, aside.Config{Keyspaces: []aside.Keyspace{users}})
	user, err := aside.GetOrLoad(ctx, cache, users.Key("42"), func(ctx context.Context) (User, error) {
		user, err := selectUser(ctx, "42")
		if errors.Is(err, sql.ErrNoRows) {
			return user, aside.ErrNotFound // remembered for NotFoundTTL
		}
		return user, err
	})
	return user, err
}

var rates = aside.Keyspace{Name: "rate", TTL: time.Hour, RefreshAfter: 5 * time.Minute}

var users = aside.Keyspace{Name: "user"}

func selectUsers(context.Context, []int64) (map[int64]User, error) { return nil, nil }

func usersByID(ctx context.Context, cache aside.Cache, ids []int64) (map[int64]User, error) {
	key := func(id int64) aside.Key { return users.Key(strconv.FormatInt(id, 10)) }
	return aside.GetOrLoadMany(ctx, cache, ids, key, selectUsers) // SELECT … WHERE id = ANY($1); a row that is not there is not found
}

type llm interface {
	Stream(ctx context.Context, prompt string) iter.Seq[string]
}

func readmeGenerations(ctx context.Context, cache aside.Cache, model llm, chatID, prompt string) error {
	var reply string
	generations, err := aside.NewGenerations(cache)

	gen, err := generations.Start(ctx, chatID) // aside.ErrGenerating when one is running
	if err != nil {
		return err
	}
	defer gen.Finish() // drops generation:, cancel: and chat_messages:, so save the reply before
	for token := range model.Stream(gen.Context(), prompt) {
		reply += token // until it ends, or someone cancels
	}
	cancelled := errors.Is(context.Cause(gen.Context()), aside.ErrCancelled)
	err = saveReply(context.WithoutCancel(ctx), reply)

	err = generations.Cancel(ctx, chatID) // from any process
	_ = cancelled
	return err
}

var _, _, _, _ = readmeKeyspace, usersByID, readmeGenerations, rates
