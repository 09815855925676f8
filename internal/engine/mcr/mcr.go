// Package mcr serves an OCI image layout as a public registry: what mcr.microsoft.com is to an
// installation that has no Internet. Anonymous, read-only, and only as much of the distribution API
// as clients that pull need.
//
// It knows nothing of names and addresses beyond the one it listens at, and nothing of the registries
// that pull through it.
//
// Documents: https://github.com/opencontainers/distribution-spec/blob/main/spec.md (pull, content
// discovery) and https://github.com/opencontainers/image-spec/blob/main/image-layout.md
package mcr

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Counters is what was asked for since the start. A pull that does not move them did not come here.
type Counters struct {
	Requests  int64
	Manifests int64 // manifests sent whole
	Blobs     int64 // blobs sent, whole or in part
	BlobBytes int64
}

// Registry is a read-only registry over an image layout. A layout that is replaced while it serves is
// seen by the next request.
type Registry struct {
	log     *slog.Logger
	content content

	requests, manifests, blobs, blobBytes atomic.Int64
}

// Handler serves the image layout in the directory. Each entry of its index.json that has the
// annotation org.opencontainers.image.ref.name, "REPOSITORY:TAG", is that tag. log may be nil.
func Handler(layoutDir string, log *slog.Logger) *Registry {
	if log == nil {
		log = slog.Default()
	}
	return &Registry{log: log, content: content{dir: layoutDir}}
}

// Counters returns the counters.
func (r *Registry) Counters() Counters {
	return Counters{r.requests.Load(), r.manifests.Load(), r.blobs.Load(), r.blobBytes.Load()}
}

// failure is an error of the distribution spec.
type failure struct {
	status        int
	code, message string
}

func (f *failure) Error() string { return f.code + ": " + f.message }

func notFound(code, what string) error {
	return &failure{http.StatusNotFound, code, what + " is not known to this registry"}
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	start := time.Now()
	r.requests.Add(1)
	recorder := &recorder{ResponseWriter: w, status: http.StatusOK}
	if err := r.serve(recorder, q); err != nil {
		var f *failure
		if !errors.As(err, &f) {
			r.log.Error("request", "path", q.URL.Path, "error", err)
			f = &failure{http.StatusInternalServerError, "UNKNOWN", "the layout cannot be read"}
		}
		body := map[string][]map[string]string{"errors": {{"code": f.code, "message": f.message}}}
		answerJSON(recorder, f.status, body)
	}
	r.log.Info("request", "host", q.Host, "method", q.Method, "path", q.URL.Path, "status", recorder.status,
		"bytes", recorder.bytes, "client", q.RemoteAddr, "duration", time.Since(start).Round(time.Millisecond))
}

func (r *Registry) serve(w *recorder, q *http.Request) error {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return &failure{http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only"}
	}
	rest, ok := strings.CutPrefix(q.URL.Path, "/v2/")
	switch {
	case q.URL.Path == "/v2", ok && rest == "":
		answerJSON(w, http.StatusOK, struct{}{})
		return nil
	case !ok:
		return notFound("NOT_FOUND", q.URL.Path)
	}
	index, err := r.content.load()
	if err != nil {
		return err
	}
	if rest == "_catalog" {
		names := slices.Collect(func(yield func(string) bool) {
			for name := range index {
				if !yield(name) {
					return
				}
			}
		})
		page, next := paginate(names, q.URL.Query())
		link(w, q, next)
		answerJSON(w, http.StatusOK, map[string]any{"repositories": page})
		return nil
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		repository := index[name]
		if repository == nil {
			return notFound("NAME_UNKNOWN", name)
		}
		page, next := paginate(repository.tagNames(), q.URL.Query())
		link(w, q, next)
		answerJSON(w, http.StatusOK, map[string]any{"name": name, "tags": page})
		return nil
	}
	for _, kind := range []string{"/manifests/", "/blobs/"} {
		i := strings.LastIndex(rest, kind)
		if i < 0 {
			continue
		}
		name, reference := rest[:i], rest[i+len(kind):]
		repository := index[name]
		if repository == nil {
			return notFound("NAME_UNKNOWN", name)
		}
		if kind == "/manifests/" {
			return r.serveManifest(w, q, repository, name, reference)
		}
		return r.serveBlob(w, q, repository, name, reference)
	}
	return notFound("NOT_FOUND", q.URL.Path)
}

func (r *Registry) serveManifest(w *recorder, q *http.Request, repository *repository, name, reference string) error {
	m, ok := repository.manifest(reference)
	if !ok {
		return notFound("MANIFEST_UNKNOWN", name+":"+reference)
	}
	payload, err := r.content.bytes(m.digest)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", m.mediaType)
	w.Header().Set("Docker-Content-Digest", m.digest.String())
	w.Header().Set("Etag", `"`+m.digest.String()+`"`)
	if q.Method == http.MethodGet {
		r.manifests.Add(1)
	}
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(payload))
	return nil
}

func (r *Registry) serveBlob(w *recorder, q *http.Request, repository *repository, name, reference string) error {
	d, ok := repository.blob(reference)
	if !ok {
		return notFound("BLOB_UNKNOWN", name+"@"+reference)
	}
	file, err := r.content.open(d)
	if err != nil {
		return err
	}
	defer file.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Etag", `"`+d.String()+`"`)
	before := w.bytes
	http.ServeContent(w, q, "", time.Time{}, file)
	if q.Method == http.MethodGet {
		r.blobs.Add(1)
		r.blobBytes.Add(w.bytes - before)
	}
	return nil
}

// paginate returns the page of names that the query's n and last ask for, and where the next begins, "" at the end.
func paginate(names []string, query url.Values) (page []string, next string) {
	slices.Sort(names)
	page = []string{}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 {
		n = len(names)
	}
	for i, name := range names {
		if last := query.Get("last"); last != "" && name <= last {
			continue
		}
		if len(page) == n {
			break
		}
		page = append(page, name)
		if len(page) == n && i < len(names)-1 {
			next = name
		}
	}
	return page, next
}

func link(w http.ResponseWriter, q *http.Request, next string) {
	if next != "" {
		query := url.Values{"n": {q.URL.Query().Get("n")}, "last": {next}}
		w.Header().Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", q.URL.Path, query.Encode()))
	}
}

func answerJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The client may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(body)
}

// recorder notes the answer for the log and the counters.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *recorder) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
