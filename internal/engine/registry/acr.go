package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// ACR's own API, by which az and the SDKs list repositories, tags and manifests with their times, and delete them:
// https://learn.microsoft.com/rest/api/containerregistry/ (data plane, 2021-07-01). It reads the same storage as
// the distribution API. What it would change beside (the attributes that lock an image) is refused.

// Routes of ACR's own API, beside distribution's names.
const (
	routeACRCatalog    = "acr-catalog"
	routeACRRepository = "acr-repository"
	routeACRTags       = "acr-tags"
	routeACRTag        = "acr-tag"
	routeACRManifests  = "acr-manifests"
	routeACRManifest   = "acr-manifest"
)

const (
	acrPrefix      = "/acr/v1/"
	defaultACRPage = 100
)

var tagName = reference.TagRegexp

// isTag reports whether name can be a tag.
func isTag(name string) bool { return tagName.FindString(name) == name && name != "" }

// parseACRCall takes a clean path below acrPrefix apart.
func parseACRCall(rest string) (call, bool) {
	if rest == "_catalog" {
		return call{route: routeACRCatalog}, true
	}
	c := call{route: routeACRRepository, repository: rest}
	for _, collection := range []struct{ suffix, all, one string }{
		{"/_tags", routeACRTags, routeACRTag}, {"/_manifests", routeACRManifests, routeACRManifest},
	} {
		if name, ok := strings.CutSuffix(rest, collection.suffix); ok {
			c.route, c.repository = collection.all, name
		} else if name, item, ok := cutLast(rest, collection.suffix+"/"); ok {
			c.route, c.repository, c.reference = collection.one, name, item
		}
	}
	switch c.route {
	case routeACRTag:
		if !isTag(c.reference) {
			return call{}, false
		}
	case routeACRManifest:
		d, err := digest.Parse(c.reference)
		if err != nil {
			return call{}, false
		}
		c.digest = d
	}
	return c, isRepository(c.repository)
}

// isACR reports whether the call is of ACR's own API.
func (c call) isACR() bool { return strings.HasPrefix(c.route, "acr-") }

// attributes are what may be done with an item; nothing is ever locked here.
type attributes struct {
	Delete bool `json:"deleteEnabled"`
	Write  bool `json:"writeEnabled"`
	Read   bool `json:"readEnabled"`
	List   bool `json:"listEnabled"`
}

var unlocked = attributes{true, true, true, true}

// acrTime is a time as ACR writes it.
type acrTime time.Time

// MarshalJSON implements json.Marshaler.
func (t acrTime) MarshalJSON() ([]byte, error) {
	return []byte(time.Time(t).UTC().Format(`"2006-01-02T15:04:05.0000000Z"`)), nil
}

type acrRepository struct {
	Registry   string     `json:"registry"`
	Name       string     `json:"imageName"`
	Created    acrTime    `json:"createdTime"`
	Updated    acrTime    `json:"lastUpdateTime"`
	Manifests  int        `json:"manifestCount"`
	Tags       int        `json:"tagCount"`
	Attributes attributes `json:"changeableAttributes"`
}

type acrTag struct {
	Name       string        `json:"name"`
	Digest     digest.Digest `json:"digest"`
	Created    acrTime       `json:"createdTime"`
	Updated    acrTime       `json:"lastUpdateTime"`
	Signed     bool          `json:"signed"`
	Attributes attributes    `json:"changeableAttributes"`
}

type acrManifest struct {
	Digest          digest.Digest `json:"digest"`
	ImageSize       int64         `json:"imageSize"`
	Created         acrTime       `json:"createdTime"`
	Updated         acrTime       `json:"lastUpdateTime"`
	Architecture    string        `json:"architecture,omitempty"`
	OS              string        `json:"os,omitempty"`
	MediaType       string        `json:"mediaType"`
	ConfigMediaType string        `json:"configMediaType,omitempty"`
	ArtifactType    string        `json:"artifactType,omitempty"`
	Tags            []string      `json:"tags,omitempty"`
	Attributes      attributes    `json:"changeableAttributes"`
}

// Errors of this API that distribution has no number for.
var (
	errNoRepository = errors.New("repository name not known to registry")
	errNoTag        = errors.New("the specified tag does not exist")
	errNoManifest   = errors.New("the specified manifest does not exist")
)

// serveACR answers a call of ACR's own API.
func (s *Server) serveACR(w http.ResponseWriter, r *http.Request, c call) {
	var answer any
	status := http.StatusOK
	var err error
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		answer, err = s.acrRead(w, r, c)
	case http.MethodDelete:
		status = http.StatusAccepted
		switch c.route {
		case routeACRRepository:
			answer, err = s.deleteRepository(c)
		case routeACRTag:
			err = c.registry.store.untag(r.Context(), c.repository, c.reference)
		default:
			status = http.StatusMethodNotAllowed
		}
	case http.MethodPatch:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "The attributes that lock repositories, tags and manifests are not supported by Cloister.")
		return
	default:
		status = http.StatusMethodNotAllowed
	}
	switch {
	case status == http.StatusMethodNotAllowed:
		failWith(w, errcode.ErrorCodeUnsupported)
	case errors.Is(err, errNoRepository):
		failDetail(w, "NAME_UNKNOWN", err, map[string]string{"name": c.repository})
	case errors.Is(err, errNoTag):
		failDetail(w, "TAG_UNKNOWN", err, map[string]string{"name": c.repository, "tag": c.reference})
	case errors.Is(err, errNoManifest):
		failDetail(w, "MANIFEST_UNKNOWN", fmt.Errorf("manifest %s is not found", c.digest), map[string]string{"name": c.repository, "revision": c.digest.String()})
	case err != nil:
		var known errcode.Error
		if !errors.As(err, &known) {
			s.log.Error("list", "registry", c.registry.LoginServer, "path", r.URL.Path, "error", err)
			known = errcode.ErrorCodeUnknown.WithMessage("the registry could not read its storage")
		}
		failWith(w, known)
	default:
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		if answer != nil {
			_ = json.NewEncoder(w).Encode(answer)
		}
	}
}

// failDetail answers 404 with what was asked for.
func failDetail(w http.ResponseWriter, code string, err error, detail map[string]string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusNotFound)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"code": code, "message": err.Error(), "detail": detail}}})
}

func (s *Server) acrRead(w http.ResponseWriter, r *http.Request, c call) (any, error) {
	store := c.registry.store
	if c.route == routeACRCatalog {
		names, err := store.repositories()
		if err != nil {
			return nil, err
		}
		p, err := readPage(r)
		if err != nil {
			return nil, err
		}
		names = cut(w, r, p, names, func(name string) string { return name })
		return map[string][]string{"repositories": names}, nil
	}
	if !store.hasRepository(c.repository) {
		return nil, errNoRepository
	}
	answer := map[string]any{"registry": c.registry.LoginServer, "imageName": c.repository}
	var err error
	switch c.route {
	case routeACRRepository:
		return store.describe(c)
	case routeACRTag:
		var tag *storedTag
		if tag, err = store.tag(c.repository, c.reference); err == nil {
			answer["tag"] = tag.view()
		}
	case routeACRManifest:
		answer["manifest"], err = store.acrManifest(r.Context(), c.repository, c.digest)
	case routeACRTags:
		answer["tags"], err = acrTags(w, r, c)
	case routeACRManifests:
		answer["manifests"], err = acrManifests(w, r, c)
	}
	return answer, err
}

func acrTags(w http.ResponseWriter, r *http.Request, c call) ([]acrTag, error) {
	p, err := readPage(r)
	if err != nil {
		return nil, err
	}
	tags, err := c.registry.store.tags(c.repository)
	if err != nil {
		return nil, err
	}
	if of := r.URL.Query().Get("digest"); of != "" {
		tags = slices.DeleteFunc(tags, func(t storedTag) bool { return t.digest.String() != of })
	}
	if p.order != "" {
		slices.SortStableFunc(tags, func(a, b storedTag) int { return p.direction() * a.updated.Compare(b.updated) })
	}
	views := []acrTag{}
	for _, t := range cut(w, r, p, tags, func(t storedTag) string { return t.name }) {
		views = append(views, t.view())
	}
	return views, nil
}

func acrManifests(w http.ResponseWriter, r *http.Request, c call) ([]acrManifest, error) {
	p, err := readPage(r)
	if err != nil {
		return nil, err
	}
	revisions, err := c.registry.store.revisions(c.repository)
	if err != nil {
		return nil, err
	}
	if p.order != "" {
		slices.SortStableFunc(revisions, func(a, b storedManifest) int { return p.direction() * a.updated.Compare(b.updated) })
	}
	tags, err := c.registry.store.tags(c.repository)
	if err != nil {
		return nil, err
	}
	views := []acrManifest{}
	for _, m := range cut(w, r, p, revisions, func(m storedManifest) string { return m.digest.String() }) {
		view, err := c.registry.store.viewManifest(r.Context(), c.repository, m, tags)
		if errors.Is(err, errNoManifest) {
			continue // deleted since it was listed
		}
		if err != nil {
			return nil, err
		}
		views = append(views, view)
	}
	return views, nil
}

// acrPage is what a list was asked for.
type acrPage struct {
	n     int
	last  string
	order string // "" by name, or timeasc, timedesc
}

func readPage(r *http.Request) (acrPage, error) {
	query := r.URL.Query()
	p := acrPage{n: defaultACRPage, last: query.Get("last")}
	if sent := query.Get("n"); sent != "" {
		n, err := strconv.Atoi(sent)
		if err != nil || n < 1 {
			return p, errcode.ErrorCodePaginationNumberInvalid.WithDetail(map[string]string{"n": sent})
		}
		p.n = min(n, maxPage)
	}
	switch order := strings.ToLower(query.Get("orderby")); order {
	case "", "none":
	case "timeasc", "timedesc":
		p.order = order
	default:
		return p, errcode.Error{Code: errcode.ErrorCodeUnsupported, Message: "orderby must be timeasc, timedesc or none"}
	}
	return p, nil
}

// direction is 1 for the oldest first.
func (p acrPage) direction() int {
	if p.order == "timedesc" {
		return -1
	}
	return 1
}

// cut is the page of all, which are in the order asked for, and names the next one in the Link header.
func cut[T any](w http.ResponseWriter, r *http.Request, p acrPage, all []T, name func(T) string) []T {
	start := 0
	if p.last != "" {
		start = slices.IndexFunc(all, func(item T) bool {
			return p.order == "" && name(item) > p.last || p.order != "" && name(item) == p.last
		})
		switch {
		case p.order != "":
			// Where the last one was deleted meanwhile the list begins anew: a client that deletes page by page misses none.
			start++
		case start < 0:
			start = len(all)
		}
	}
	all = all[start:]
	if len(all) <= p.n {
		return all
	}
	all = all[:p.n]
	query := r.URL.Query()
	query.Set("last", name(all[p.n-1]))
	query.Set("n", strconv.Itoa(p.n))
	next := url.URL{Path: path.Clean(r.URL.Path), RawQuery: query.Encode()}
	w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
	return all
}
