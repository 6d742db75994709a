package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

// browser is a headless Chromium with the page open.
type browser struct {
	t   *testing.T
	ctx context.Context
}

// openBrowser skips the test where there is no Chromium, or fails it if
// ASIDE_TEST_REQUIRE_BROWSER is set.
func openBrowser(t *testing.T, language, url string) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		if os.Getenv("ASIDE_TEST_REQUIRE_BROWSER") != "" {
			t.Fatal("Chromium is not on the PATH, and is required")
		}
		t.Skip("Chromium is not on the PATH")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("lang", language), chromedp.Flag("accept-lang", language),
		chromedp.WindowSize(1360, 860), chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(time.Minute))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	ctx, end := context.WithTimeout(context.Background(), 8*time.Minute)
	ctx, endAll := chromedp.NewExecAllocator(ctx, options...)
	ctx, _ = chromedp.NewContext(ctx)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Log(err)
		}
		endAll()
		end()
	})
	b := &browser{t, ctx}
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil { // without a timeout, which would end the browser
		t.Fatal(err)
	}
	return b
}

func (b *browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%s: %v\n%s", what, err, eval[string](b, "document.body.innerText"))
	}
}

func eval[T any](b *browser, js string) T {
	b.t.Helper()
	result, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js))
	if err != nil {
		b.t.Fatalf("%s: %v", js, err)
	}
	return result
}

// until waits until js is true.
func (b *browser) until(what, js string) {
	b.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if eval[bool](b, "!!("+js+")") {
			return
		}
	}
	b.t.Fatalf("not in 2 minutes: %s\n%s", what, eval[string](b, "document.body.innerText"))
}

func (b *browser) click(id string) {
	b.t.Helper()
	b.do("click "+id, chromedp.Click(chromedp.ID(id)))
}

func (b *browser) typeIn(id, text string) {
	b.t.Helper()
	b.do("type in "+id, chromedp.SendKeys(chromedp.ID(id), text))
}

const (
	growing   = `document.querySelector("#messages .growing p")?.textContent.split(" ").length > 4`
	replied   = `!document.querySelector("#messages .growing") && !document.querySelector("#send").disabled`
	lastRead  = `document.querySelector("#reads li .outcome")?.textContent`
	theState  = `document.querySelector("#state").dataset.state`
	theNotice = `document.querySelector("#notice").textContent`
)

func messagesAre(n int) string {
	return fmt.Sprintf(`document.querySelectorAll("#messages .message:not(.growing)").length === %d && %s`, n, replied)
}

// chatserver is the server as main runs it, on a port of its own.
type chatserver struct {
	t    *testing.T
	env  string // a file
	url  string
	log  logtest.Buffer
	stop func()
}

func startChatserver(t *testing.T, env map[string]string) *chatserver {
	t.Helper()
	port := redistest.FreePort(t) // it stays free while the server is away
	text := fmt.Sprintf("PORT=%d\nCACHE_TIMEOUT=20s\nDATABASE_URL=%s\n", port, newDatabase(t))
	for name, value := range env {
		text += name + "=" + value + "\n"
	}
	c := &chatserver{t: t, env: filepath.Join(t.TempDir(), ".env"), url: fmt.Sprint("http://127.0.0.1:", port)}
	if err := os.WriteFile(c.env, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.stop() })
	c.start()
	return c
}

func (c *chatserver) start() {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, c.env, &c.log) }()
	c.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Error(err)
		}
		c.stop = func() {}
	}
	redistest.Eventually(c.t, "the server listens", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
		if err == nil {
			conn.Close()
		}
		if len(ended) > 0 {
			c.t.Fatal("it does not: ", <-ended)
		}
		return err == nil
	})
}

// echoes adds to env a model that says something about the last message. The end of
// each reply comes when it is asked for, so that no machine is too slow to see it grow.
func echoes(t *testing.T, env map[string]string) (rest chan<- bool) {
	t.Helper()
	end := make(chan bool, 10)
	model := modelEnv(modelServer(t, func(w http.ResponseWriter, r *http.Request, asked string) {
		w.Header().Set("Content-Type", "text/event-stream")
		piece(w, `You said "`+asked[strings.LastIndex(asked, "user=")+len("user="):]+`". `)
		piece(w, "One word and another and one more. ")
		select {
		case <-end:
			piece(w, "It is saved.")
			finish(w, "stop")
		case <-r.Context().Done():
		}
	}))
	for name, value := range model {
		if strings.HasPrefix(name, "OPENAI_") {
			env[name] = value
		}
	}
	return end
}

// A person creates a room, talks, cancels a reply, watches the cache, and goes on
// talking while Redis, and then the server itself, is unavailable.
func TestBrowser(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	rest := echoes(t, redis.env)
	redis.env["DATABASE_DELAY"] = "20ms"
	server := startChatserver(t, redis.env)
	b := openBrowser(t, "en-US", server.url)

	b.typeIn("title", "Plans <b>"+kb.Enter)
	b.until("the room is there", `document.querySelector("#rooms [aria-current]")?.textContent === "Plans <b>" && document.activeElement.id === "text"`)
	b.typeIn("text", "Hello <i>you</i>"+kb.Enter)
	b.until("the reply streams", growing)
	rest <- true
	b.until("the reply is whole", messagesAre(2))
	b.until("it is the reply to what was said", `document.querySelector("#messages .assistant p").textContent.startsWith('You said "Hello <i>you</i>".')`)

	b.typeIn("text", "And now?"+kb.Enter)
	b.until("another reply streams", growing)
	b.click("cancel")
	b.until("it was cancelled", messagesAre(4)+` && `+theNotice+`.includes("cancelled")`)
	b.until("what there was of it is kept", `(text => text.startsWith("You said") && !text.endsWith("saved."))([...document.querySelectorAll("#messages .assistant p")].at(-1).textContent)`)

	b.click("clear")
	b.until("the cache is cleared", `document.querySelector("#result").textContent.includes("cleared")`)
	n := eval[int](b, `document.querySelectorAll("#reads li").length`)
	b.click("reload")
	b.until("a miss", fmt.Sprintf(`document.querySelectorAll("#reads li").length > %d && `, n)+lastRead+` === "MISS"`)
	b.click("reload")
	b.until("a hit", lastRead+` === "HIT"`)
	b.until("the key of the room, with its time", `/chat_messages:.*\n?(2\d:\d\d|30:00)/.test(document.querySelector("#keys").innerText)`)
	b.click("test")
	b.until("the test's times", `/Set [\d.]+ ms, get [\d.]+ ms, the value matches/.test(document.querySelector("#result").textContent)`)
	shots(b, "")

	redis.Kill()
	b.until("the page says that Redis is away", theState+` === "away"`)
	shots(b, "away-")
	b.typeIn("text", "Are you there?"+kb.Enter)
	rest <- true
	b.until("the chat goes on", messagesAre(6))
	b.until("reads are slow, not wrong", lastRead+` === "MISS"`)
	redis.Start()
	b.until("the page says that it is back", theState+` === "on" && document.querySelector("#queued").textContent === "0"`)

	server.stop()
	b.until("the page says that the server is away", `!document.querySelector("#lost").hidden`)
	server.start()
	b.until("the page is back, with its room", `document.querySelector("#lost").hidden && `+messagesAre(6))
	b.typeIn("text", "Welcome back"+kb.Enter)
	rest <- true
	b.until("the chat goes on", messagesAre(8))

	b.do("speak Korean", chromedp.SetValue(chromedp.ID("language"), "ko"), chromedp.Evaluate[chromedp.Void](`document.querySelector("#language").dispatchEvent(new Event("change"))`))
	b.until("it is Korean", `document.documentElement.lang === "ko" && document.querySelector("#rooms-title").textContent === "대화방"`)
}

// holdBack is a proxy of the server. It reports on asked each GET of a path with the suffix,
// and holds back its answer until it receives from answer.
func holdBack(t *testing.T, server, suffix string) (url string, asked <-chan bool, answer chan<- bool) {
	t.Helper()
	target, err := neturl.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	asks, answers := make(chan bool, 10), make(chan bool)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // a page that leaves ends its stream of events
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, suffix) {
			asks <- true
			select {
			case <-answers:
			case <-r.Context().Done():
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
	})
	return front.URL, asks, answers
}

// A room is shown as empty only once its history has come and is empty. Until then the
// page says nothing of it, and then that it loads, also where the room before it was empty.
func TestBrowser_HistoryIsLoading(t *testing.T) {
	t.Parallel()
	server := startChatserver(t, map[string]string{"CACHE_TYPE": "memory"})
	url, asked, answer := holdBack(t, server.url, "/messages")
	b := openBrowser(t, "en-US", url)
	const (
		empty   = `document.querySelector("#messages .empty:not(.loading)")`
		loading = `[...document.querySelectorAll("#messages .loading")].some(el => getComputedStyle(el).visibility === "visible")`
	)
	isLoading := func(what string) {
		t.Helper()
		<-asked
		if eval[bool](b, "!!"+empty) {
			t.Errorf("%s, whose history has not come, is shown as empty", what)
		}
		b.until(what+" is loading", loading)
		if eval[bool](b, "!!"+empty) {
			t.Errorf("%s, whose history has not come, is shown as empty", what)
		}
	}

	b.typeIn("title", "New"+kb.Enter)
	isLoading("the new room")
	answer <- true
	b.until("the new room is empty", empty+` && !document.querySelector("#messages .loading")`)

	b.typeIn("title", "Other"+kb.Enter)
	isLoading("the other room")
	b.do("another language", chromedp.SetValue(chromedp.ID("language"), "ko"), chromedp.Evaluate[chromedp.Void](`document.querySelector("#language").dispatchEvent(new Event("change"))`))
	if eval[bool](b, "!!"+empty) {
		t.Error("in another language the room is shown as empty")
	}
	server.stop()
	answer <- true // it fails
	b.until("the page says that it failed", `!document.querySelector("#notice").hidden && !document.querySelector("#messages .loading")`)
	if eval[bool](b, "!!"+empty) {
		t.Error("a room whose history cannot be read is shown as empty")
	}
}

// The panel says that there are no reads, or no keys of a room, only once the server's
// events have said so.
func TestBrowser_CacheIsUnknown(t *testing.T) {
	t.Parallel()
	url, asked, answer := holdBack(t, startChatserver(t, map[string]string{"CACHE_TYPE": "memory"}).url, "/events")
	b := openBrowser(t, "en-US", url)
	const noReads, noKeys = `!document.querySelector("#no-reads").hidden`, `!document.querySelector("#no-keys").hidden`
	<-asked
	if eval[bool](b, noReads+" || "+noKeys) {
		t.Error("the panel says that there is nothing before the first event")
	}
	answer <- true
	b.until("there are no reads", noReads)

	for _, title := range []string{"New", "Other"} { // Other must not have New's key
		b.typeIn("title", title+kb.Enter)
		<-asked
		b.until("the history has come", `document.querySelector("#room").textContent === "`+title+`" && document.querySelector("#messages .empty:not(.loading)")`)
		if eval[bool](b, noKeys+` || !!document.querySelector("#keys li")`) {
			t.Errorf("%s: the panel tells of keys before the server has", title)
		}
		answer <- true
		b.until("the room has a key", `document.querySelector("#keys li")`)
	}
}

// Two servers over one Redis: what is said on one page appears on the other, which
// cancels the reply that the first one's server generates.
func TestBrowser_TwoServers(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	echoes(t, redis.env)
	redis.env["DATABASE_URL"] = newDatabase(t)
	one, two := startChatserver(t, redis.env), startChatserver(t, redis.env)
	here := openBrowser(t, "ko-KR", one.url)
	here.until("it speaks the browser's language", `document.documentElement.lang === "ko"`)
	here.typeIn("title", "둘"+kb.Enter)
	here.until("the room is there", `document.querySelector("#rooms [aria-current]")`)
	there := openBrowser(t, "en-US", two.url)
	there.until("it is there, too", `document.querySelector("#rooms button")`)
	there.do("open the room", chromedp.Click(chromedp.CSS("#rooms button")))
	for b, server := range map[*browser]*chatserver{here: one, there: two} {
		b.until("which server answers", `document.querySelector("#about").textContent.includes("`+strings.TrimPrefix(server.url, "http://")+`")`)
	}
	here.typeIn("text", "어때요?"+kb.Enter)
	here.until("the reply streams", growing)
	there.until("the other page shows what was said, and that a reply comes", `document.querySelector("#messages .user p")?.textContent === "어때요?" && !document.querySelector("#cancel").hidden`)
	there.click("cancel")
	here.until("it was cancelled", messagesAre(2)+` && `+theNotice+`.includes("취소")`)
	there.until("the other page has the reply", messagesAre(2))
}

// A read of a value that is to be refreshed says so, and so do the counts.
func TestBrowser_Stale(t *testing.T) {
	t.Parallel()
	b := openBrowser(t, "en-US", startChatserver(t, map[string]string{"CACHE_TYPE": "memory", "CACHE_REFRESH_CHAT_MESSAGES": "1ms"}).url)
	b.typeIn("title", "Old"+kb.Enter)
	b.until("the room was read", lastRead)
	redistest.Eventually(t, "a read is stale", func() bool { // unless the one before was within a millisecond
		n := eval[int](b, `document.querySelectorAll("#reads li").length`)
		b.click("reload")
		b.until("it is read", fmt.Sprintf(`document.querySelectorAll("#reads li").length > %d`, n))
		return eval[string](b, lastRead) == "STALE"
	})
	b.until("it is shown", `getComputedStyle(document.querySelector("#reads .STALE")).color !== getComputedStyle(document.querySelector("#reads .MISS")).color`)
	b.until("it is counted", `/stale hits [1-9]\d*, refreshes [1-9]/.test(document.querySelector("#counts").textContent)`)
	b.do("speak Korean", chromedp.SetValue(chromedp.ID("language"), "ko"), chromedp.Evaluate[chromedp.Void](`document.querySelector("#language").dispatchEvent(new Event("change"))`))
	b.until("it is counted in Korean", `/갱신 [1-9]/.test(document.querySelector("#counts").textContent)`)
	shots(b, "stale-")
}

// The page asks for the token when the server refuses to clear the cache.
func TestBrowser_ClearWithToken(t *testing.T) {
	t.Parallel()
	b := openBrowser(t, "en-US", startChatserver(t, map[string]string{"CACHE_TYPE": "memory", "CACHE_ADMIN_TOKEN": "secret"}).url)
	const asked, result = `document.querySelector("#ask").open`, `document.querySelector("#result").textContent`
	b.click("clear")
	b.until("the token is asked for", asked)
	b.typeIn("token", "wrong"+kb.Enter)
	b.until("it is asked for again", asked+` && document.querySelector("#token").value === ""`)
	b.typeIn("token", kb.Escape)
	b.until("nobody insists", `!`+asked+` && `+result+` === ""`)
	b.click("clear")
	b.until("the token is asked for", asked)
	b.typeIn("token", "secret"+kb.Enter)
	b.until("the cache is cleared", `!`+asked+` && `+result+`.includes("cleared")`)
}

// shots takes pictures of the page, light and dark, wide and narrow, if there is a
// folder for them.
func shots(b *browser, name string) {
	dir := os.Getenv("ASIDE_SCREENSHOTS")
	if dir == "" {
		return
	}
	b.do("wait for the next state", chromedp.Sleep(1500*time.Millisecond))
	for _, scheme := range []string{"light", "dark"} {
		for width, height := range map[int64]int64{1360: 860, 390: 844} {
			views := []string{"chat"}
			if width < 500 {
				views = []string{"chat", "rooms", "cache"}
			}
			for _, view := range views {
				b.emulate(scheme)
				b.do("show "+view, chromedp.EmulateViewport(width, height), chromedp.Evaluate[chromedp.Void](`document.querySelector(".views [data-view=`+view+`]").click()`), chromedp.Sleep(200*time.Millisecond))
				png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
				if err != nil {
					b.t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s%s-%d-%s.png", name, scheme, width, view)), png, 0o644); err != nil {
					b.t.Fatal(err)
				}
			}
		}
	}
	b.do("as it was", chromedp.EmulateViewport(1360, 860), chromedp.Evaluate[chromedp.Void](`document.querySelector(".views [data-view=chat]").click()`))
}

func (b *browser) emulate(scheme string) {
	b.t.Helper()
	params := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, params); err != nil {
		b.t.Fatal(err)
	}
}
