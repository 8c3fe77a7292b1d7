package ui_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/server/servertest"
)

var update = flag.Bool("update", false, "write the pictures in docs/images anew")

// TestOff has no page unless it is asked for.
func TestOff(t *testing.T) {
	for flags, want := range map[string]int{"": http.StatusNotFound, "--enable-ui": http.StatusOK} {
		c := servertest.Start(t, 1, strings.Fields(flags)...)
		resp, err := http.Get("http://" + c.Members[0].Client + "/ui")
		require.NoError(t, err)
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.Equal(t, want, resp.StatusCode, "%s", body)
	}
}

// browser is a tab of a real Chromium, and what it complained of.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

func open(t *testing.T) *browser {
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("there is no Chromium")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.WindowSize(1400, 1000),
		chromedp.Flag("force-prefers-color-scheme", "light"))
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx, opts...)
	b := &browser{t: t}
	ctx, cancelTab := chromedp.NewContext(ctx, chromedp.WithListener(b.heard))
	b.ctx = ctx
	t.Cleanup(func() { cancelTab(); cancelAllocator(); cancel() })
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate("about:blank"))) // the browser ends with the context of the first call
	return b
}

// heard notes what the page complains of.
func (b *browser) heard(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, fmt.Sprintf("%+v", ev.ExceptionDetails))
	case *log.EventEntryAdded:
		if ev.Entry.Level == log.EntryLevelError && !strings.Contains(ev.Entry.Text, "status of 4") { // refused calls are refused
			b.complaints = append(b.complaints, ev.Entry.Text+" "+ev.Entry.URL)
		}
	}
}

// do performs steps; each must succeed within half a minute.
func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	for _, step := range steps {
		ask(b, step)
	}
}

// ask performs an action, and returns what it finds.
func ask[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	got, err := chromedp.Run(ctx, action)
	if err != nil {
		shown, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText`))
		b.mu.Lock()
		defer b.mu.Unlock()
		require.NoError(b.t, err, "the page shows:\n%s\n%v", shown, b.complaints)
	}
	return got
}

// shows waits until a text is on the page.
func (b *browser) shows(text string) {
	b.t.Helper()
	b.do(chromedp.WaitVisible(chromedp.Search(`//main//*[contains(normalize-space(.), "` + text + `")]`)))
}

// click clicks an element with a text.
func (b *browser) click(tag, text string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.Search("//" + tag + `[normalize-space(.)="` + text + `"]`)))
}

func (b *browser) picture(file string) {
	b.t.Helper()
	if !*update {
		return
	}
	png := ask(b, chromedp.FullScreenshot(100))
	require.NoError(b.t, os.MkdirAll("../../docs/images", 0o755))
	require.NoError(b.t, os.WriteFile("../../docs/images/"+file, png, 0o644))
}

func (b *browser) quiet() {
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.complaints)
}

// load writes and reads all the time, so that there is something to see.
func load(t *testing.T, c *servertest.Cluster, ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for i, m := range c.Members {
		kv := pb.NewKVClient(c.Dial(m))
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Appendf(nil, "/registry/%s/ns%d/item%d", []string{"pods", "events", "leases"}[i], n%3, n%50)
				_, _ = kv.Put(ctx, &pb.PutRequest{Key: key, Value: fmt.Appendf(nil, `{"kind": "Item", "n": %d}`, n)})
				for range i + 1 {
					_, _ = kv.Range(ctx, &pb.RangeRequest{Key: key})
				}
				select {
				case <-time.After(time.Duration(8+4*i) * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
}

// TestPage looks at everything without users: nothing can be changed.
func TestPage(t *testing.T) {
	b := open(t)
	c := servertest.Start(t, 3, "--enable-ui")
	ctx, kv := t.Context(), pb.NewKVClient(c.Dial(c.Members[0]))
	put := func(key, value string, lease int64) {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease})
		require.NoError(t, err)
	}
	granted, err := pb.NewLeaseClient(c.Dial(c.Members[0])).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 3600, ID: 0xbeef})
	require.NoError(t, err)
	put("/app/config", `{"replicas": 3, "image": "web:v1"}`, 0)
	put("/app/config", `{"replicas": 5, "image": "web:v1"}`, 0)
	put("/app/<b>bold<b>", "<script>document.title = 'owned'</script>", 0)
	put("/app/session/1", "x", granted.ID)
	put("/app/binary/\x00\xff", "\x00\x01\x02", 0)
	load(t, c, ctx)

	b.do(chromedp.Navigate("http://" + c.Members[0].Client + "/ui"))
	b.shows("leader")
	b.shows("healthy")
	b.shows("/registry/") // among the prefixes
	// The charts move: there is a line of each member with more than one point.
	ask(b, chromedp.Poll[bool](`[...document.querySelectorAll(".chart")].every((c) => [...c.querySelectorAll("path.line")].length === 3) &&
		[...document.querySelectorAll(".chart path.line")].some((p) => (p.getAttribute("d").match(/L/g) || []).length >= 2)`,
		chromedp.WithPollingInterval(100*time.Millisecond), chromedp.WithPollingTimeout(time.Minute)))
	if *update {
		time.Sleep(80 * time.Second) // for the picture
	}
	b.picture("ui.png")

	b.click("nav/a", "Keys")
	b.click("a", "/")
	b.click("a", "app/")
	b.shows("<b>bold<b>")
	b.click("button", "<b>bold<b>")
	b.shows("<script>document.title = 'owned'</script>")
	b.click("button", "config")
	b.shows("version 2")
	ask(b, chromedp.Poll[bool](`document.querySelectorAll(".diff .added, .diff .removed").length === 2`, chromedp.WithPollingInterval(100*time.Millisecond)))
	changed := ask(b, chromedp.Evaluate[[]string](`[...document.querySelectorAll(".diff .added, .diff .removed")].map((e) => e.textContent)`))
	require.Equal(t, []string{`-   "replicas": 3,`, `+   "replicas": 5,`}, changed)
	b.picture("ui-keys.png")
	forms := ask(b, chromedp.Evaluate[int](`document.querySelectorAll("textarea, button.danger").length`))
	require.Zero(t, forms, "without a user there is nothing that changes anything")
	b.do(chromedp.Navigate("http://" + c.Members[0].Client + "/ui/#keys/" + `/app/binary/`))
	b.click("button", `\x00\xff`)
	b.shows("00000000 00 01 02")

	b.click("nav/a", "Leases")
	b.shows("beef")
	b.shows("/app/session/1")
	b.click("nav/a", "Watches")
	b.do(chromedp.SendKeys(chromedp.CSS(`input[aria-label="prefix to watch"]`), "/app/"))
	b.click("button", "Watch")
	b.shows("Watching since revision")
	put("/app/live", "news", 0)
	b.shows("news")
	b.click("button", "Stop")
	b.shows("Stopped.")

	require.Equal(t, "Keelson", ask(b, chromedp.Title()), "a value ran as a script")
	b.quiet()
}

// TestUsers signs in: what a user may not do is refused, what it may is done.
func TestUsers(t *testing.T) {
	b := open(t)
	c := servertest.Start(t, 1, "--enable-ui", "--bcrypt-cost=4")
	conn := c.Dial(c.Members[0])
	users(t, conn)
	auth, kv := pb.NewAuthClient(conn), pb.NewKVClient(conn)
	r, err := auth.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "root", Password: "root"})
	require.NoError(t, err)
	root := metadata.AppendToOutgoingContext(t.Context(), "token", r.Token)
	for _, key := range []string{"/mine/a", "/others/a"} {
		_, err := kv.Put(root, &pb.PutRequest{Key: []byte(key), Value: []byte("old")})
		require.NoError(t, err)
	}

	b.do(chromedp.Navigate("http://" + c.Members[0].Client + "/ui/#keys//mine/a"))
	signIn := func(user, password string) {
		b.shows("This cluster wants to know who you are")
		b.do(chromedp.SetValue(chromedp.CSS(`input[name=user]`), user), chromedp.SetValue(chromedp.CSS(`input[name=password]`), password))
		b.click("button", "Sign in")
	}
	signIn("alice", "wrong")
	b.shows("authentication failed")
	signIn("alice", "alice")
	b.shows("old")
	b.click("summary", "Change")
	b.do(chromedp.SetValue(chromedp.CSS(`textarea`), "new"))
	b.click("button", "Write")
	b.shows("version 2")
	got, err := kv.Range(root, &pb.RangeRequest{Key: []byte("/mine/a")})
	require.NoError(t, err)
	require.Equal(t, "new", string(got.Kvs[0].Value))

	b.do(chromedp.Navigate("http://" + c.Members[0].Client + "/ui/#keys//others/"))
	b.shows("permission denied")
	stored := ask(b, chromedp.Evaluate[string](`JSON.stringify([document.cookie, Object.keys(localStorage)])`))
	require.Equal(t, `["",[]]`, stored)

	b.do(chromedp.Navigate("http://" + c.Members[0].Client + "/ui/#keys//mine/a"))
	b.click("button", "Delete")
	b.do(chromedp.Click(chromedp.CSS(`dialog button.danger`)))
	b.shows("The key is deleted.")
	b.click("button", "Sign out")
	b.shows("This cluster wants to know who you are")
	b.quiet()
}

// users makes root, and alice who may read and write /mine/.
func users(t *testing.T, conn *grpc.ClientConn) {
	ctx, auth := t.Context(), pb.NewAuthClient(conn)
	for _, name := range []string{"root", "alice"} {
		_, err := auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: name})
		require.NoError(t, err)
		_, err = auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: name})
		require.NoError(t, err)
		_, err = auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: name})
		require.NoError(t, err)
	}
	_, err := auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "alice", Perm: &authpb.Permission{
		PermType: authpb.Permission_READWRITE, Key: []byte("/mine/"), RangeEnd: []byte("/mine0"),
	}})
	require.NoError(t, err)
	_, err = auth.AuthEnable(ctx, &pb.AuthEnableRequest{})
	require.NoError(t, err)
}
