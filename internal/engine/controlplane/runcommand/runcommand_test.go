package runcommand

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// apiServer is the part of an API server that a command needs. It keeps what is made in it, by path, and says of a pod
// that it has ended when it is told so.
type apiServer struct {
	*httptest.Server
	mu      sync.Mutex
	objects map[string]string
	ended   chan struct{}
	changed chan struct{} // something was made
	dead    bool          // answers 500
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{objects: map[string]string{}, ended: make(chan struct{}), changed: make(chan struct{}, 1)}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

const terminated = `"status":{"phase":"Succeeded","containerStatuses":[{"name":"user-command","state":{"terminated":{"exitCode":3,"startedAt":"2026-11-23T10:00:00Z","finishedAt":"2026-11-23T10:00:05Z"}}}]}`

func (s *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	status := func(code int, reason string) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":%d,"reason":%q}`, code, reason)
	}
	name := filepath.Base(r.URL.Path)
	body := `{"metadata":{"name":"` + name + `","resourceVersion":"1"}`
	select {
	case <-s.ended:
		body += `,` + terminated
	default:
	}
	switch {
	case s.dead:
		status(500, "InternalError")
	case strings.HasSuffix(r.URL.Path, "/services/kubernetes"):
		fmt.Fprint(w, `{"spec":{"clusterIP":"10.0.0.1"}}`)
	case strings.HasSuffix(r.URL.Path, "/token"):
		fmt.Fprint(w, `{"status":{"token":"secret-token"}}`)
	case strings.HasSuffix(r.URL.Path, "/log"):
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, "what it printed")
	case r.URL.Query().Get("watch") != "":
		w.(http.Flusher).Flush()
		s.mu.Unlock()
		select {
		case <-s.ended:
			fmt.Fprintf(w, `{"type":"MODIFIED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x","resourceVersion":"2"},%s}}`+"\n", terminated)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
		}
		<-r.Context().Done()
		s.mu.Lock()
	case r.Method == http.MethodPost:
		defer func() {
			select {
			case s.changed <- struct{}{}:
			default:
			}
		}()
		s.objects[r.URL.Path] += "+"
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, body+"}")
	case r.Method == http.MethodDelete:
		s.objects[filepath.Dir(r.URL.Path)] += "-"
		fmt.Fprint(w, `{"kind":"Status","status":"Success"}`)
	case strings.Contains(r.URL.Path, "/pods/") && s.objects[filepath.Dir(r.URL.Path)] == "":
		status(404, "NotFound")
	default:
		fmt.Fprint(w, body+"}")
	}
}

// history is what was made and deleted.
func (s *apiServer) history(kind string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, h := range s.objects {
		if filepath.Base(path) == kind {
			return h
		}
	}
	return ""
}

func runner(t *testing.T, s *apiServer, dir string) *Runner {
	r := New(Options{
		Image: "image", Log: slog.New(slog.DiscardHandler), Dir: func(c string) string { return filepath.Join(dir, c) },
		Client: func(string) (*rest.Config, error) { return &rest.Config{Host: s.URL}, nil },
	})
	t.Cleanup(func() { r.Close() })
	return r
}

const id = "0123456789abcdef0123456789abcdef"

// until waits until the API server's objects are so.
func (s *apiServer) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.After(10 * time.Second); !ok(); {
		select {
		case <-s.changed:
		case <-limit:
			t.Fatal("never: " + what)
		}
	}
}

// finished waits until the command does not run any more.
func finished(t *testing.T, r *Runner, cluster, id string) {
	t.Helper()
	r.mu.Lock()
	task, runs := r.running[cluster][id]
	r.mu.Unlock()
	if !runs {
		return
	}
	select {
	case <-task.done:
	case <-time.After(10 * time.Second):
		t.Fatal("the command never ends")
	}
}

func TestCommandOutlivesTheProcess(t *testing.T) {
	s, dir := newAPIServer(t), t.TempDir()
	r := runner(t, s, dir)
	if err := r.Run(Command{ID: id, Cluster: "c", Text: "kubectl get nodes", Context: zipOf(t, entry{"a", "x", 0o644})}); err != nil {
		t.Fatal(err)
	}
	s.until(t, "a pod", func() bool { return s.history("pods") == "+" })
	if got, err := r.Result("c", id); err != nil || got.State != Running {
		t.Errorf("%+v, %v", got, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "c", id+".json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the record is %v, %v", info, err)
	}
	r.Close() // the process ends

	close(s.ended)
	again := runner(t, s, dir)
	if err := again.Resume("c"); err != nil {
		t.Fatal(err)
	}
	finished(t, again, "c", id)
	if h := s.history("pods"); h != "+-" {
		t.Errorf("pods: %s", h)
	}
	got, err := again.Result("c", id)
	if err != nil || got.State != Succeeded || got.ExitCode != 3 || got.Logs != "what it printed" || got.FinishedAt.Sub(got.StartedAt) != 5*time.Second {
		t.Errorf("%+v, %v", got, err)
	}
	for _, kind := range []string{"clusterrolebindings", "serviceaccounts", "secrets"} {
		if h := s.history(kind); h != "+-" {
			t.Errorf("%s: %s", kind, h)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "c", id+".json")); err != nil || !strings.Contains(string(data), `"Cleaned": true`) || strings.Contains(string(data), `"Context"`) {
		t.Errorf("the record at the end is %s, %v", data, err)
	}
	if _, err := again.Result("c", strings.Repeat("0", 32)); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown command: %v", err)
	}
	if _, err := again.Result("c", "../../secret"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a path for an ID: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	s := newAPIServer(t)
	s.dead = true
	r := runner(t, s, t.TempDir())
	if err := r.Run(Command{ID: id, Cluster: "c", Context: []byte("junk")}); !errors.Is(err, ErrContext) {
		t.Errorf("a context that is no zip: %v", err)
	}
	for i := range maxRunning {
		if err := r.Run(Command{ID: fmt.Sprintf("%032x", i), Cluster: "c"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Run(Command{ID: id, Cluster: "c"}); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
	// A cluster that goes ends them, and nothing is written there afterwards.
	r.Forget("c")
	dir := r.Dir("c")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	r.Close() // returns when nothing runs any more
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written into a cluster that is gone: %v", err)
	}
}
