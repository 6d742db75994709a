package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/examples/internal/dotenv"
	"github.com/cacheaside/aside/internal/redistest"
)

var writeGuide = flag.Bool("guide.write", false, "write the answers that TestGuide gets to docs/guide.md and docs/guide.ko.md")

// The pages have the same blocks of code, in the same order.
var guides = []string{"../../docs/guide.md", "../../docs/guide.ko.md"}

// needDocker are the pages' commands that no test runs. The name of each stands in the
// pages' list of them; see TestGuide_Docker for what is checked.
var needDocker = []string{
	"docker run --name redis-chat -p 6379:6379 -d redis:7-alpine",
	"docker stop redis-chat",
	"docker start redis-chat",
	"docker start redis-chat || docker run --name redis-chat -p 6379:6379 -d redis:7-alpine",
	"docker ps --filter name=redis-chat",
	"docker logs redis-chat",
	"docker compose -f examples/compose.yaml up -d --build",
	"docker compose -f examples/compose.yaml logs -f chatserver",
	"docker compose -f examples/compose.yaml down",
}

// notRun are others that no test runs.
var notRun = []string{
	"git clone https://github.com/cacheaside/aside",
	"cd aside",
	"go get github.com/cacheaside/aside",
	"go run ./examples/speed", // takes minutes
	"go test ./examples/chatserver -run Guide",
}

// block is a fenced block of a page, between two offsets of its text.
type block struct {
	lang, text string
	start, end int
}

var fence = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

func blocksOf(page string) (blocks []block) {
	for _, m := range fence.FindAllStringSubmatchIndex(page, -1) {
		blocks = append(blocks, block{page[m[2]:m[3]], page[m[4]:m[5]], m[4], m[5]})
	}
	return blocks
}

// step is a command and the answer that the pages show.
type step struct {
	command, shown string
	compared       bool // in a block of sh, nothing is shown
	json           bool // the answer is a block of its own, indented
	start, end     int  // of the answer, in the page
}

var started = regexp.MustCompile(`^((?:[A-Z_]+=\S+ )*)go run \./examples/chatserver( 2>chat\.log)?$`)

// stepsOf returns the commands of a page.
func stepsOf(t *testing.T, blocks []block) (steps []step) {
	t.Helper()
	for _, b := range blocks {
		switch b.lang {
		case "sh":
			for line := range strings.Lines(b.text) {
				steps = append(steps, step{command: strings.TrimSuffix(line, "\n")})
			}
		case "console":
			at := b.start
			for line := range strings.Lines(b.text) {
				at += len(line)
				if command, ok := strings.CutPrefix(line, "$ "); ok {
					steps = append(steps, step{command: strings.TrimSuffix(command, "\n"), compared: true, start: at, end: at})
				} else if len(steps) > 0 {
					last := &steps[len(steps)-1]
					last.shown, last.end = last.shown+line, at
				}
			}
		case "json":
			if len(steps) == 0 || steps[len(steps)-1].shown != "" || !steps[len(steps)-1].compared {
				t.Fatalf("a block of JSON is no command's answer:\n%s", b.text)
			}
			last := &steps[len(steps)-1]
			last.json, last.shown, last.start, last.end = true, b.text, b.start, b.end
		}
	}
	return steps
}

func readGuides(t *testing.T) (pages []string) {
	t.Helper()
	for _, name := range guides {
		page, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, string(page))
	}
	return pages
}

// masked replaces the parts of an answer that differ from run to run.
func masked(answer string) string {
	ids := make(map[string]string) // the same room's are the same
	answer = regexp.MustCompile(`\b[a-z2-7]{26}\b`).ReplaceAllStringFunc(answer, func(id string) string {
		if ids[id] == "" {
			ids[id] = fmt.Sprint("room", len(ids))
		}
		return ids[id]
	})
	for _, m := range []struct{ what, with string }{
		{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`, "TIME"},
		{`("(?:set|get)_time_ms": ?)[\d.]+`, "${1}MS"},
		{`("redis_version": ?)"[\d.]+"`, "${1}VERSION"},
		{`("used_memory": ?)"[\d.]+[BKMG]"`, "${1}BYTES"},
		{`(used_memory_human:)[\d.]+[BKMG]\r?`, "${1}BYTES"},
		{`(connected_clients:)\d+\r?`, "${1}CLIENTS"},
		{`(X-Process-Time: )[\d.]+`, "${1}SECONDS"},
		{`(ms=)[\d.]+`, "${1}MS"},
		{`\(integer\) \d{2,4}\b`, "(integer) TTL"},
	} {
		answer = regexp.MustCompile(m.what).ReplaceAllString(answer, m.with)
	}
	return answer
}

// TestGuide runs the commands of docs/guide.md in one shell, on servers of its own, and
// compares their answers with those in the page. With -guide.write it puts them there,
// and into docs/guide.ko.md.
func TestGuide(t *testing.T) {
	if os.Getenv(postgresEnv) != "" {
		return // the pages' server is on SQLite
	}
	t.Parallel()
	pages := readGuides(t)
	blocks, others := blocksOf(pages[0]), blocksOf(pages[1])
	for i := range max(len(blocks), len(others)) {
		if i >= min(len(blocks), len(others)) || blocks[i].lang != others[i].lang || blocks[i].text != others[i].text && !*writeGuide {
			t.Fatalf("from block %d on, the pages have other blocks: %d and %d in all", i, len(blocks), len(others))
		}
	}
	steps := stepsOf(t, blocks)
	for _, needed := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(needed); err != nil && os.Getenv("ASIDE_TEST_REQUIRE_REDIS") != "" {
			t.Fatal(err)
		} else if err != nil {
			t.Skip(err)
		}
	}
	g := &guide{dir: t.TempDir(), seen: make(map[string]bool)}
	g.sh = newShell(t, g.dir)
	first := slices.IndexFunc(steps, func(s step) bool { return started.MatchString(s.command) })
	for _, s := range steps[:max(0, first)] {
		g.skips(t, s)
	}
	for begin := first; begin >= 0 && begin < len(steps); {
		end := begin + 1
		for end < len(steps) && !started.MatchString(steps[end].command) {
			end++
		}
		t.Run(steps[begin].command, func(t *testing.T) { g.serve(t, steps[begin:end]) })
		begin = end
	}
	for _, command := range slices.Concat(needDocker, notRun) {
		if !g.seen[command] && !strings.Contains(pages[0], "`"+command+"`") {
			t.Errorf("on the list of commands that are not run, and not in the page: %s", command)
		}
	}
	if *writeGuide && !t.Failed() {
		for i, page := range pages {
			write(t, guides[i], page, stepsOf(t, blocksOf(page)), steps)
		}
	}
}

// write puts the answers of got in the place of those of a page.
func write(t *testing.T, name, page string, shown, got []step) {
	for i, s := range slices.Backward(shown) {
		if s.compared {
			page = page[:s.start] + got[i].shown + page[s.end:]
		}
	}
	if err := os.WriteFile(name, []byte(page), 0o644); err != nil {
		t.Error(err)
	}
}

// guide is a reader's terminal, in a folder of its own.
type guide struct {
	dir   string
	sh    *shell
	redis *redistest.Server
	seen  map[string]bool // commands on the lists
}

// skips reports whether a command is on one of the lists of those that are not run.
func (g *guide) skips(t *testing.T, s step) bool {
	t.Helper()
	if slices.Contains(needDocker, s.command) || slices.Contains(notRun, s.command) {
		g.seen[s.command] = true
		return true
	}
	if strings.Contains(s.command, "docker") && !strings.HasPrefix(s.command, inRedis) {
		t.Errorf("needs Docker, and is not on the list: %s", s.command)
		return true
	}
	return false
}

// inRedis is run where Redis is, and so is the rest of such a command in the test.
const inRedis = "docker exec redis-chat "

// serve starts a server as the first step says, and runs the others.
func (g *guide) serve(t *testing.T, steps []step) {
	setting := started.FindStringSubmatch(steps[0].command)[1]
	port := strconv.Itoa(redistest.FreePort(t))
	env := append(strings.Fields(setting), "PATH="+os.Getenv("PATH"), "PORT="+port, "CACHE_TIMEOUT=20s", serverEnv+"=1")
	was := []string{port, "8000", `"timeout_ms":20000`, `"timeout_ms":250`}
	if !strings.Contains(setting, "CACHE_TYPE=memory") && !strings.Contains(setting, "CACHE_ENABLED=false") {
		redistest.Require(t, "redis-cli")
		g.redis = redistest.Start(t)
		_, port, _ := net.SplitHostPort(g.redis.Addr)
		env = append(env, "REDIS_PORT="+port)
		was = append(was, port, "6379")
		g.sh.run(t, "REDIS="+port)
	}
	log, err := os.Create(filepath.Join(g.dir, "chat.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server := exec.Command(os.Args[0], "-test.run=^TestGuide_Server$")
	server.Dir, server.Env, server.Stderr, server.SysProcAttr = g.dir, env, log, redistest.DieWithParent()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
	}()
	g.sh.run(t, "SERVER=localhost:"+port)
	redistest.Eventually(t, "the server listens", func() bool {
		res, err := http.Get("http://localhost:" + port + "/healthz")
		if err == nil {
			res.Body.Close()
		}
		return err == nil && res.StatusCode == 200
	})
	pages := strings.NewReplacer(was...) // of the ports that the pages have
	for i := range steps[1:] {
		g.step(t, &steps[1+i], "http://localhost:"+port, pages)
	}
}

// step runs a command and compares its answer with the page's, or with -guide.write
// puts it into s.
func (g *guide) step(t *testing.T, s *step, server string, pages *strings.Replacer) {
	t.Helper()
	switch s.command {
	case "docker stop redis-chat":
		g.redis.Kill()
	case "docker start redis-chat":
		g.redis.Start()
		redistest.Eventually(t, "the server has found its Redis again", func() bool {
			res, err := http.Get(server + "/cache/status")
			if err != nil {
				return false
			}
			defer res.Body.Close()
			status, _ := io.ReadAll(res.Body)
			return bytes.Contains(status, []byte(`"enabled":true`)) && bytes.Contains(status, []byte(`"breaker":"closed"`)) && bytes.Contains(status, []byte(`"queued_invalidations":0`))
		})
	}
	if g.skips(t, *s) {
		return
	}
	command := strings.TrimPrefix(s.command, inRedis)
	// A command that only reads may be sent again: a value is stored after its
	// loader's caller has been answered.
	reads := strings.HasPrefix(command, "redis-cli") || strings.Contains(command, "/cache/status") || strings.Contains(command, "/metrics")
	if *writeGuide && reads {
		time.Sleep(500 * time.Millisecond)
	}
	got := ""
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		var code int
		got, code = g.sh.run(t, command)
		got = strings.ReplaceAll(pages.Replace(got), "\r", "")
		if code != 0 {
			t.Fatalf("%s: exit status %d\n%s", s.command, code, got)
		}
		if s.json {
			got = indented(t, got)
		}
		if !s.compared || *writeGuide {
			break
		}
		if masked(got) == masked(s.shown) {
			return
		}
		if !reads || time.Since(start) > 20*time.Second {
			t.Errorf("$ %s\nanswers\n%swant what the page has (or run the test with -guide.write)\n%s", s.command, got, s.shown)
			return
		}
	}
	s.shown = got
}

func indented(t *testing.T, answer string) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, []byte(answer), "", "  "); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	return strings.TrimSpace(out.String()) + "\n"
}

// serverEnv is set where the test's binary is to be a chat server.
const serverEnv = "ASIDE_TEST_GUIDE_SERVER"

func TestGuide_Server(t *testing.T) {
	if os.Getenv(serverEnv) == "" {
		return // it is TestGuide's
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, ".env", os.Stderr); err != nil {
		t.Error(err)
	}
}

// shell is a bash that keeps variables and jobs from one command to the next.
type shell struct {
	in  io.Writer
	out *bufio.Reader
}

// The page's addresses are led to the test's servers. redis-cli answers as in a
// terminal, where it is not told --raw.
const prelude = `exec 2>&1
curl() { command curl "${@//localhost:8000/$SERVER}"; }
redis-cli() { command redis-cli -p "$REDIS" $FORMAT "$@"; }
sleep() { until [ -s reply.txt ]; do command sleep 0.05; done; }
`

func newShell(t *testing.T, dir string) *shell {
	t.Helper()
	bash := exec.Command("bash", "--norc", "--noprofile")
	bash.Dir, bash.SysProcAttr = dir, redistest.DieWithParent()
	bash.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "no_proxy=*"}
	in, err := bash.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := bash.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := bash.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = bash.Wait()
	})
	sh := &shell{in, bufio.NewReader(out)}
	sh.run(t, prelude)
	return sh
}

// run returns the output of a command, and its exit status.
func (sh *shell) run(t *testing.T, command string) (output string, code int) {
	t.Helper()
	format := ""
	if !strings.Contains(command, "|") && !strings.Contains(command, "--raw") {
		format = "--no-raw"
	}
	fmt.Fprintf(sh.in, "FORMAT=%s\n%s\nprintf '\\036%%d\\n' $?\n", format, command)
	output, err := sh.out.ReadString('\036')
	if err == nil {
		_, err = fmt.Fscanf(sh.out, "%d\n", &code)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, output)
	}
	return strings.TrimSuffix(output, "\036"), code
}

// The pages' Go is that of guide_code_test.go, which is compiled and run.
func TestGuide_GoCompiles(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("guide_code_test.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, b := range blocksOf(readGuides(t)[0]) {
		if b.lang == "go" {
			found++
			if !strings.Contains(outdented(string(source)), outdented(b.text)) {
				t.Errorf("not in guide_code_test.go:\n%s", b.text)
			}
		}
	}
	if found == 0 {
		t.Error("no Go in the page")
	}
}

func outdented(text string) string {
	return regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(text, "")
}

var (
	inline   = regexp.MustCompile("`([^`\n]+)`")
	variable = regexp.MustCompile(`\b(?:CACHE|REDIS)_[A-Z_]+\b`)
	program  = regexp.MustCompile(`^(docker|curl|redis-cli|go run|go test) `)
	metric   = regexp.MustCompile(`\baside_[a-z_]+\b`)
)

// The settings that the pages name exist, and their .env files are accepted without a
// warning. So are commands within a line of text those that are listed or run.
func TestGuide_Names(t *testing.T) {
	t.Parallel()
	for i, page := range readGuides(t) {
		blocks := blocksOf(page)
		commands := slices.Concat(needDocker, notRun)
		for _, s := range stepsOf(t, blocks) {
			commands = append(commands, s.command)
		}
		for _, b := range blocks {
			switch b.lang {
			case "go", "sh", "console", "json":
			case "dotenv":
				env, warnings, err := dotenv.Parse([]byte(b.text), nil)
				if err != nil || len(warnings) > 0 {
					t.Errorf("%v, %q:\n%s", err, warnings, b.text)
				}
				accepted(t, env)
			default:
				t.Errorf("%s has a block of %q, which no test reads", guides[i], b.lang)
			}
		}
		for _, m := range inline.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
			text := strings.ReplaceAll(m[1], `\|`, "|") // as tables have it
			known := func(command string) bool { return command == text || strings.HasPrefix(command, text+" ") }
			if program.MatchString(text) && !slices.ContainsFunc(commands, known) {
				t.Errorf("%s: neither run nor listed: %s", guides[i], text)
			}
		}
		for _, command := range needDocker { // the page says of each that no test runs it
			if !strings.Contains(page[strings.LastIndex(page, "\n## "):], "`"+command+"`") {
				t.Errorf("%s: the last section does not list %s", guides[i], command)
			}
		}
		for _, name := range variable.FindAllString(page, -1) {
			if name == "CACHE_ADMIN_TOKEN" {
				continue // the chat server's
			}
			cfg, _ := aside.ConfigFromEnv([]string{name + "=1"})
			if slices.ContainsFunc(cfg.Warnings, func(w string) bool { return strings.Contains(w, name) && !strings.Contains(w, "beside") }) {
				t.Errorf("%s: %s is no setting: %q", guides[i], name, cfg.Warnings)
			}
		}
	}
}

// accepted checks that a server starts with env, and has nothing to say about it.
func accepted(t *testing.T, env map[string]string) settings {
	t.Helper()
	set, err := readSettings(env)
	if err != nil || len(set.cache.Warnings) > 0 {
		t.Errorf("%v: %v, %q", env, err, set.cache.Warnings)
	}
	return set
}

// The metrics that the pages name are those that the server has.
func TestGuide_Metrics(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	c.history(c.room(), "MISS")
	text := string(c.want(200, "GET", "/metrics", "").body)
	for _, page := range readGuides(t) {
		for _, name := range metric.FindAllString(page, -1) {
			if !strings.Contains(text, "# TYPE "+name+" ") {
				t.Errorf("no such metric: %s", name)
			}
		}
	}
}

// No container is started here. The files of Docker and of the editor are checked for
// their agreement with the pages, the settings and each other.
func TestGuide_Docker(t *testing.T) {
	t.Parallel()
	compose := yamlOf(t, "../compose.yaml")
	want := func(path, value string) {
		t.Helper()
		if compose[path] != value {
			t.Errorf("compose.yaml: %s is %q, want %q", path, compose[path], value)
		}
	}
	run := needDocker[0]
	want("services.redis.image", run[strings.LastIndex(run, " ")+1:])
	want("services.redis.container_name", "redis-chat")
	want("services.redis.ports.0", "127.0.0.1:6379:6379")
	want("services.chatserver.ports.0", "127.0.0.1:8000:8000")
	env := make(map[string]string)
	for path, value := range compose {
		if name, ok := strings.CutPrefix(path, "services.chatserver.environment."); ok {
			env[name] = value
		}
	}
	set := accepted(t, env)
	pg, err := parseDatabase(set.databaseURL)
	if err != nil || pg.config == nil {
		t.Fatalf("DATABASE_URL: %v", err)
	}
	want("services.postgres.environment.POSTGRES_USER", pg.config.User)
	want("services.postgres.environment.POSTGRES_PASSWORD", pg.config.Password)
	want("services.postgres.environment.POSTGRES_DB", pg.config.Database)
	if redis := redisName(set.cache); redis != "redis:6379/0" || pg.config.Host != "postgres" || pg.config.Port != 5432 || set.addr != "0.0.0.0:8000" {
		t.Errorf("the chat server is on %s, with Redis on %s and PostgreSQL on %s:%d", set.addr, redis, pg.config.Host, pg.config.Port)
	}
	for _, service := range []string{"redis", "postgres"} {
		want("services.chatserver.depends_on."+service+".condition", "service_healthy")
		if compose["services."+service+".healthcheck.test"] == "" {
			t.Errorf("compose.yaml: %s has no healthcheck", service)
		}
	}
	dockerfile, err := os.ReadFile(filepath.Join("..", compose["services.chatserver.build.context"], compose["services.chatserver.build.dockerfile"]))
	if err != nil {
		t.Fatal(err)
	}
	build := regexp.MustCompile(`(?m)^RUN CGO_ENABLED=0 GOWORK=off go build -C (\S+) -buildvcs=false -o (\S+) (\S+)$`).FindStringSubmatch(string(dockerfile))
	if build == nil || !bytes.Contains(dockerfile, []byte("COPY --from=build "+build[2]+" ")) {
		t.Fatalf("the Dockerfile does not build and copy:\n%s", dockerfile)
	}
	list := exec.Command("go", "list", "-C", filepath.Join("../..", build[1]), "-f", "{{.Name}} {{.ImportPath}}", build[3])
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := list.CombinedOutput(); err != nil || string(out) != "main github.com/cacheaside/aside/examples/chatserver\n" {
		t.Errorf("it builds %s, %v", out, err)
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	goes := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)
	if goes == nil || !bytes.Contains(dockerfile, []byte("\nFROM golang:"+string(goes[1])+"-alpine AS build\n")) {
		t.Errorf("the Dockerfile has another Go than go.mod's %s", goes)
	}

	text, err := os.ReadFile("../../.vscode/tasks.json")
	if err != nil {
		t.Fatal(err)
	}
	var tasks struct {
		Tasks []struct{ Label, Type, Command string }
	}
	if err := json.Unmarshal(text, &tasks); err != nil {
		t.Fatal(err)
	}
	var labels []string
	for _, task := range tasks.Tasks {
		labels = append(labels, task.Label)
		if task.Type != "shell" || !slices.Contains(needDocker, task.Command) {
			t.Errorf("the task %s runs what the pages do not have: %s", task.Label, task.Command)
		}
		for i, page := range readGuides(t) {
			// In a table, a | has a backslash before it.
			row := "| " + task.Label + " | `" + strings.ReplaceAll(task.Command, "|", `\|`) + "` |"
			if !strings.Contains(page, row) {
				t.Errorf("%s does not have\n%s", guides[i], row)
			}
		}
	}
	if got := strings.Join(labels, ", "); got != "Start Redis, Stop Redis, Redis Status" {
		t.Errorf("the tasks are %s", got)
	}
}

// yamlOf reads the scalars of a YAML file of maps and lists in block style, by path. Flow
// lists are scalars to it, and any other form of YAML is an error.
func yamlOf(t *testing.T, name string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^((?:  )*)(?:- ("[^"]*"|[^":]+)|([A-Za-z_]+):(?: (.+))?)$`)
	values := make(map[string]string)
	var path []string
	items := 0
	for row := range strings.Lines(string(text)) {
		row = strings.TrimSuffix(row, "\n")
		if row == "" || strings.HasPrefix(row, "#") {
			continue
		}
		m := line.FindStringSubmatch(row)
		if m == nil || len(m[1])/2 > len(path) {
			t.Fatalf("%s: cannot read %q", name, row)
		}
		path = path[:len(m[1])/2]
		value := strings.Trim(m[2]+m[4], `"`)
		if m[3] != "" {
			path, items = append(path, m[3]), 0
		} else {
			path, items = append(path, strconv.Itoa(items)), items+1
		}
		if key := strings.Join(path, "."); value != "" {
			if _, twice := values[key]; twice {
				t.Fatalf("%s: %s comes twice", name, key)
			}
			values[key] = value
		}
		if m[3] == "" {
			path = path[:len(path)-1]
		}
	}
	return values
}
