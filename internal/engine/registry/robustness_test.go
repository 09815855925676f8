package registry

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestUploadGoesOnAfterABrokenConnection: the client asks how far it came, and goes on from there.
func TestUploadGoesOnAfterABrokenConnection(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	header := e.bearer(t, "a.azurecr.io", pusher, "repository:app:pull,push")
	content := bytes.Repeat([]byte("cloister "), 100_000)
	client := &http.Client{Transport: e.private()}
	do := func(method, address string, body []byte, extra http.Header) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, address, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range header {
			request.Header[k] = v
		}
		for k, v := range extra {
			request.Header[k] = v
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response
	}
	begun := do("POST", "https://a.azurecr.io/v2/app/blobs/uploads/", nil, nil)
	at, err := begun.Location()
	if err != nil {
		t.Fatal(err)
	}
	// A request that announces all, sends a part and is gone.
	e.mu.Lock()
	address := e.listeners[netip.MustParseAddr(addrA)]
	e.mu.Unlock()
	raw, err := tls.Dial("tcp", address, &tls.Config{RootCAs: testAuthority().pool(), ServerName: "a.azurecr.io"})
	if err != nil {
		t.Fatal(err)
	}
	const sent = 300_000
	fmt.Fprintf(raw, "PATCH %s HTTP/1.1\r\nHost: a.azurecr.io\r\nAuthorization: %s\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", at.RequestURI(), header.Get("Authorization"), len(content))
	raw.Write(content[:sent])
	raw.Close()

	// The server notices in its own time, and until then is still at the first request: a client that is told 416 asks again.
	var next *http.Response
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		status := do("GET", at.String(), nil, nil)
		if status.StatusCode != http.StatusNoContent {
			t.Fatalf("GET of the upload: %d", status.StatusCode)
		}
		if at, err = status.Location(); err != nil {
			t.Fatal(err)
		}
		_, end, _ := strings.Cut(status.Header.Get("Range"), "-")
		last, err := strconv.Atoi(end)
		if err != nil || last >= sent {
			t.Fatalf("Range %q after %d bytes", status.Header.Get("Range"), sent)
		}
		if last == 0 && time.Now().Before(deadline) {
			continue
		}
		offset := last + 1
		next = do("PATCH", at.String(), content[offset:], http.Header{
			"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("%d-%d", offset, len(content)-1)},
		})
		if next.StatusCode == http.StatusAccepted {
			t.Logf("went on from %d", offset)
			break
		}
		if next.StatusCode != http.StatusRequestedRangeNotSatisfiable || time.Now().After(deadline) {
			t.Fatalf("PATCH from %d: %d", offset, next.StatusCode)
		}
	}
	if at, err = next.Location(); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	if done := do("PUT", at.String()+"&digest="+sum, nil, nil); done.StatusCode != http.StatusCreated {
		t.Fatalf("PUT: %d", done.StatusCode)
	}
	if head := do("HEAD", "https://a.azurecr.io/v2/app/blobs/"+sum, nil, nil); head.StatusCode != 200 || head.ContentLength != int64(len(content)) {
		t.Errorf("%d, %d bytes", head.StatusCode, head.ContentLength)
	}
	// A range that does not begin where the upload stands is told so, and an upload's state is nobody's to write.
	begun = do("POST", "https://a.azurecr.io/v2/app/blobs/uploads/", nil, nil)
	at, _ = begun.Location()
	if wrong := do("PATCH", at.String(), content[:10], http.Header{"Content-Type": {"application/octet-stream"}, "Content-Range": {"5-14"}}); wrong.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("a gap: %d", wrong.StatusCode)
	}
	query := at.Query()
	query.Set("_state", query.Get("_state")[:20]+"A"+query.Get("_state")[21:])
	at.RawQuery = query.Encode()
	if forged := do("PATCH", at.String(), content, http.Header{"Content-Type": {"application/octet-stream"}}); forged.StatusCode/100 != 4 {
		t.Errorf("a forged state: %d", forged.StatusCode)
	}
}

// TestUpstreamThatBreaksOff: the client's body ends short, and its retry with a range gets the rest.
func TestUpstreamThatBreaksOff(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("big:1", 1<<20)
	layers, _ := image.Layers()
	layer, _ := layers[0].Digest()
	compressed, _ := layers[0].Compressed()
	content, _ := io.ReadAll(compressed)
	var once sync.Once
	breakOff := func(w http.ResponseWriter, r *http.Request) (answered bool) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+layer.String()) {
			once.Do(func() {
				answered = true
				w.Header().Set("Content-Length", itoa(len(content)))
				w.Write(content[:len(content)/2])
				w.(http.Flusher).Flush()
				time.Sleep(300 * time.Millisecond) // until it is on its way: what fails before is tried again at once
				panic(http.ErrAbortHandler)
			})
		}
		return answered
	}
	e.upstream.intercept.Store(&breakOff)
	address := e.blobAddress(t, "b.azurecr.io", "big", layer)
	client := &http.Client{Transport: e.private()}
	response, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err == nil || len(got) > len(content)/2 || response.ContentLength != int64(len(content)) {
		t.Fatalf("%d bytes of %d: %v", len(got), len(content), err)
	}
	request, _ := http.NewRequestWithContext(t.Context(), "GET", address, nil)
	request.Header.Set("Range", fmt.Sprintf("bytes=%d-", len(got)))
	if response, err = client.Do(request); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || response.StatusCode != http.StatusPartialContent || !bytes.Equal(append(got, rest...), content) {
		t.Errorf("the rest: %d, %d + %d bytes, %v", response.StatusCode, len(got), len(rest), err)
	}
}

// TestUpstreamThatStalls is given up; another try gets the whole.
func TestUpstreamThatStalls(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.server.cache.stall = time.Second
	image := e.publish("slow:1", 1<<18)
	layers, _ := image.Layers()
	layer, _ := layers[0].Digest()
	release := make(chan struct{})
	stall := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+layer.String()) {
			return false
		}
		w.Header().Set("Content-Length", "300000")
		w.Write(make([]byte, 1000))
		w.(http.Flusher).Flush()
		<-release
		return true
	}
	e.upstream.intercept.Store(&stall)
	begun := time.Now()
	if _, err := e.pull("b.azurecr.io/slow:1", e.options(e.private(), e.login("b.azurecr.io", ""))...); err == nil {
		t.Error("pulled what upstream did not send")
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("waited %s for an upstream that sends nothing", took)
	}
	close(release)
	e.upstream.intercept.Store(nil)
	e.server.cache.stall = stallTimeout // a busy machine may bring nothing for a second
	e.mustPull("b.azurecr.io/slow:1", image, e.options(e.private(), e.login("b.azurecr.io", ""))...)
}

// TestThousandCacheRules is as many as a registry can have.
func TestThousandCacheRules(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image := e.publish("team-0999/app:1", 512)
	r := &e.config.Registries[0]
	r.CacheRules = nil
	for i := range 1000 {
		name := fmt.Sprintf("team-%04d", i)
		r.CacheRules = append(r.CacheRules, CacheRule{Name: name, Source: "mcr.microsoft.com/" + name + "/*", Target: "mirror/" + name + "/*"})
	}
	e.apply()
	e.mustPull("a.azurecr.io/mirror/team-0999/app:1", image, e.options(e.private(), e.login("a.azurecr.io", kubelet))...)
	rules := e.server.state.Load().registries[storageKey(r.ID)].rules
	begun := time.Now()
	for range 1000 {
		if from, ok := match(rules, "mirror/team-0500/app/deep"); !ok || from.repository != "team-0500/app/deep" {
			t.Fatalf("%+v", from)
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("a thousand look-ups among a thousand rules took %s", took)
	}
}

// TestMemoryDoesNotGrowWithTheBlob: a quarter of a gigabyte passes to several clients at once. It does not
// run beside others, whose memory would be counted.
func TestMemoryDoesNotGrowWithTheBlob(t *testing.T) {
	const size = 256 << 20
	e := newEnv(t)
	pattern := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	digester := digest.SHA256.Digester()
	for range size / len(pattern) {
		digester.Hash().Write(pattern)
	}
	d := digester.Digest()
	serve := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/blobs/"+d.String()) {
			return false
		}
		w.Header().Set("Content-Length", itoa(size))
		w.Header().Set("Docker-Content-Digest", d.String())
		if r.Method == http.MethodGet {
			for range size / len(pattern) {
				w.Write(pattern)
			}
		}
		return true
	}
	e.upstream.intercept.Store(&serve)
	response, _ := get(t, e.private(), "GET", "https://b.azurecr.io/v2/huge/blobs/"+d.String(), e.bearer(t, "b.azurecr.io", "", "repository:huge:pull"))
	address := response.Header.Get("Location")
	done := make(chan struct{})
	var most uint64
	var sampler sync.WaitGroup
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	sampler.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				most = max(most, now.HeapInuse)
			}
		}
	})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			response, err := (&http.Client{Transport: e.private()}).Get(address)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			sum := digest.SHA256.Digester()
			if n, err := io.Copy(sum.Hash(), response.Body); err != nil || n != size || sum.Digest() != d {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	clients.Wait()
	close(done)
	sampler.Wait()
	if most > before.HeapInuse+64<<20 {
		t.Errorf("%d MiB of memory for a blob of %d MiB", (most-before.HeapInuse)>>20, size>>20)
	}
}

// FuzzRange asks for parts of a stored blob: what is sent is that part, or the whole.
func FuzzRange(f *testing.F) {
	e := newEnv(f)
	content := []byte("0123456789abcdefghijklmnopqrstuvwxyz")
	d := digest.FromBytes(content)
	s := e.server.storage
	if err := os.MkdirAll(filepath.Dir(s.blobPath(d)), 0o700); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(s.blobPath(d), content, 0o600); err != nil {
		f.Fatal(err)
	}
	for _, r := range []string{"bytes=0-", "bytes=5-9", "bytes=-3", "bytes=99-", "bytes=0-0,2-2", "bytes=9-5", "items=0-1", "bytes=", "bytes=18446744073709551616-"} {
		f.Add(r)
	}
	f.Fuzz(func(t *testing.T, header string) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "https://a.eastus.data.azurecr.io/", nil)
		r.Header.Set("Range", header)
		e.server.sendBlob(w, r, call{digest: d}, found{size: int64(len(content)), stored: d})
		body := w.Body.Bytes()
		switch w.Code {
		case http.StatusOK:
			if !bytes.Equal(body, content) {
				t.Errorf("%q: 200 with %q", header, body)
			}
		case http.StatusPartialContent:
			if strings.HasPrefix(w.Header().Get("Content-Type"), "multipart/") {
				return
			}
			var from, to, of int
			if _, err := fmt.Sscanf(w.Header().Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &of); err != nil || of != len(content) || !bytes.Equal(body, content[from:to+1]) {
				t.Errorf("%q: %q with %q", header, w.Header().Get("Content-Range"), body)
			}
		case http.StatusRequestedRangeNotSatisfiable:
		default:
			t.Errorf("%q: %d", header, w.Code)
		}
	})
}

// FuzzUpload sends whatever as an upload's state and place: the server does not fall, and stores nothing by it.
func FuzzUpload(f *testing.F) {
	e := newEnv(f)
	header := e.bearer(f, "a.azurecr.io", pusher, "repository:app:pull,push")
	handler := e.server.handler(netip.MustParseAddr(addrA))
	begun := httptest.NewRecorder()
	start := httptest.NewRequest("POST", "https://a.azurecr.io/v2/app/blobs/uploads/", nil)
	start.Header = header.Clone()
	handler.ServeHTTP(begun, start)
	at, err := url.Parse(begun.Header().Get("Location"))
	if err != nil || begun.Code != http.StatusAccepted {
		f.Fatalf("%d %v", begun.Code, err)
	}
	id := filepath.Base(at.Path)
	f.Add("PATCH", id, at.Query().Get("_state"), "0-3", "")
	f.Add("PUT", id, "", "", emptyDigest)
	f.Add("GET", "../../x", "x", "-", "sha256:zz")
	f.Add("DELETE", "00000000-0000-0000-0000-000000000000", "bm8=", "5-4", "sha512:00")
	f.Fuzz(func(t *testing.T, method, id, state, place, sum string) {
		query := url.Values{"_state": {state}}
		if sum != "" {
			query.Set("digest", sum)
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("PATCH /x HTTP/1.1\r\nHost: a.azurecr.io\r\n\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		r.Method, r.URL = method, &url.URL{Path: "/v2/app/blobs/uploads/" + id, RawQuery: query.Encode()}
		r.Header = header.Clone()
		r.Header.Set("Content-Range", place)
		r.Body = io.NopCloser(strings.NewReader("body"))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%s %s: %d %s", method, r.URL, w.Code, w.Body)
		}
		if w.Code == http.StatusCreated && sum != digest.FromString("body").String() && !strings.Contains(sum, ":") {
			t.Errorf("stored as %q", sum)
		}
	})
}
