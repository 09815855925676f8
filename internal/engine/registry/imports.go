package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// Import is an order to copy an image into a registry from another one, and what became of it. It is a file
// in the storage directory: whoever writes it there orders, and may go; this process does it, again after it
// was killed, and writes the outcome into the same file.
//
//	(none) ── Order ── ImportRunning ── ImportSucceeded, ImportFailed ── removed after a day
type Import struct {
	Target   string // login server
	Source   ImportSource
	Tags     []string // REPOSITORY[:TAG]
	Untagged []string // repositories that get the manifest and no tag
	Force    bool     // move tags that exist

	State   string
	Status  int    `json:",omitempty"` // HTTP status of a failure
	Code    string `json:",omitempty"`
	Message string `json:",omitempty"`
	Ended   time.Time
}

// ImportSource is where an import copies from.
type ImportSource struct {
	Host  string // login server of a registry of this process, or of an upstream
	Image string // REPOSITORY:TAG or REPOSITORY@DIGEST
	// Trusted: whoever orders may pull from the source, and its owner lets registries pass its firewall.
	Trusted            bool
	Username, Password string `json:",omitempty"`
}

// States of an Import.
const (
	ImportRunning   = "Running"
	ImportSucceeded = "Succeeded"
	ImportFailed    = "Failed"
)

const (
	importsKept       = 24 * time.Hour
	importsAtOnce     = 4
	maxTargets        = 100
	maxImportManifest = 64 // manifests of one index, those of nested ones included
)

// Imports orders imports of the process that has its storage in Dir.
type Imports struct{ Dir string }

func (i Imports) path(id string) string { return filepath.Join(i.Dir, "imports", id+".json") }

// Order has an import done, and returns the name to ask for its outcome by.
func (i Imports) Order(order Import) (id string, err error) {
	if len(order.Tags)+len(order.Untagged) > maxTargets {
		return "", fmt.Errorf("an import has at most %d targets", maxTargets)
	}
	if err := os.MkdirAll(filepath.Dir(i.path("x")), 0o700); err != nil {
		return "", err
	}
	id, order.State = uuid.NewString(), ImportRunning
	return id, atomicfile.WriteJSON(i.path(id), order, 0o600)
}

// Outcome is how far an import is; os.ErrNotExist when it was never ordered or is forgotten.
func (i Imports) Outcome(id string) (Import, error) {
	var order Import
	if _, err := uuid.Parse(id); err != nil {
		return order, os.ErrNotExist
	}
	data, err := os.ReadFile(i.path(id))
	if err != nil {
		return order, err
	}
	return order, json.Unmarshal(data, &order)
}

// importError is what an import failed with.
type importError struct {
	status        int
	code, message string
}

func (e *importError) Error() string { return e.code + ": " + e.message }

// startImports begins what is ordered and not under way.
func (s *Server) startImports() {
	if len(s.state.Load().hosts) == 0 {
		return // before the first configuration
	}
	imports := Imports{s.opts.StorageDir}
	entries, err := os.ReadDir(filepath.Dir(imports.path("x")))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Error("read the imports", "error", err)
		}
		return
	}
	for _, entry := range entries {
		id, ok := strings.CutSuffix(entry.Name(), ".json")
		if !ok {
			continue
		}
		order, err := imports.Outcome(id)
		if err != nil {
			continue // not an order's name, or gone
		}
		if order.State != ImportRunning {
			if s.now().Sub(order.Ended) > importsKept {
				_ = os.Remove(imports.path(id))
			}
			continue
		}
		if _, running := s.importing.LoadOrStore(id, true); running {
			continue
		}
		s.running.Go(func() {
			defer s.importing.Delete(id)
			s.doImport(imports, id, order)
		})
	}
}

// doImport does one import and writes down what became of it.
func (s *Server) doImport(imports Imports, id string, order Import) {
	select {
	case s.importSlots <- struct{}{}:
		defer func() { <-s.importSlots }()
	case <-s.ctx.Done():
		return
	}
	// Another run may have ended between the look at the file and this one's turn.
	if now, err := imports.Outcome(id); err != nil || now.State != ImportRunning {
		return
	}
	start := s.now()
	err := s.copyImage(s.ctx, order)
	if s.ctx.Err() != nil {
		return // the next process does it
	}
	order.State, order.Ended, order.Source.Password = ImportSucceeded, s.now(), ""
	var failure *importError
	switch {
	case errors.As(err, &failure):
	case errors.Is(err, errNotUpstream):
		failure = &importError{http.StatusBadRequest, "InvalidParameters", fmt.Sprintf("manifest or blob of %s is not found in source registry %s: %v", order.Source.Image, order.Source.Host, err)}
	case err != nil:
		failure = &importError{http.StatusBadRequest, "InvalidParameters", "Error copying blobs: " + err.Error()}
	}
	if failure != nil {
		order.State, order.Status, order.Code, order.Message = ImportFailed, failure.status, failure.code, failure.message
	}
	s.log.Info("import", "target", order.Target, "source", order.Source.Host+"/"+order.Source.Image, "state", order.State, "error", err,
		"duration", s.now().Sub(start).Round(time.Millisecond))
	if err := atomicfile.WriteJSON(imports.path(id), order, 0o600); err != nil {
		s.log.Error("write an import's outcome", "error", err)
	}
}

// importTarget is one repository, and the tag it gets; "" for none.
type importTarget struct{ repository, tag string }

// targets are where the order wants the image.
func (order Import) targets(sourceTag string) ([]importTarget, error) {
	var all []importTarget
	for _, name := range order.Tags {
		repository, tag, tagged := strings.Cut(name, ":")
		if !tagged {
			tag = sourceTag
			if tag == "" {
				tag = "latest"
			}
		}
		if !isRepository(repository) || !isTag(tag) {
			return nil, &importError{http.StatusBadRequest, "InvalidParameters", fmt.Sprintf("The target tag '%s' is not valid.", name)}
		}
		all = append(all, importTarget{repository, tag})
	}
	for _, repository := range order.Untagged {
		if !isRepository(repository) {
			return nil, &importError{http.StatusBadRequest, "InvalidParameters", fmt.Sprintf("The target repository '%s' is not valid.", repository)}
		}
		all = append(all, importTarget{repository: repository})
	}
	if len(all) == 0 {
		return nil, &importError{http.StatusBadRequest, "InvalidParameters", "At least one target tag or untagged target repository is required."}
	}
	return all, nil
}

// copyImage copies what the order names, and tags it last.
func (s *Server) copyImage(ctx context.Context, order Import) error {
	st := s.state.Load()
	target, ok := st.hosts[strings.ToLower(order.Target)]
	if !ok || target.data {
		return &importError{http.StatusNotFound, "ResourceNotFound", "There is no registry " + order.Target + "."}
	}
	source, err := s.openSource(st, order.Source)
	if err != nil {
		return err
	}
	targets, err := order.targets(source.tag)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if err := order.mayTag(ctx, target.registry, t); err != nil {
			return err
		}
		c := copying{s: s, source: source, into: target.registry, repository: t.repository, seen: map[string]bool{}}
		descriptor, err := c.manifest(ctx, source.reference)
		if err != nil {
			return err
		}
		if t.tag == "" {
			continue
		}
		if err := order.mayTag(ctx, target.registry, t); err != nil {
			return err
		}
		if err := target.registry.store.retag(ctx, t.repository, t.tag, descriptor); err != nil {
			return fmt.Errorf("tag %s:%s: %w", t.repository, t.tag, err)
		}
	}
	return nil
}

// mayTag refuses to move a tag without force.
func (order Import) mayTag(_ context.Context, into *registry, t importTarget) error {
	if order.Force || t.tag == "" {
		return nil
	}
	_, err := into.store.tag(t.repository, t.tag)
	if errors.Is(err, errNoTag) {
		return nil
	}
	if err != nil {
		return err
	}
	return &importError{http.StatusConflict, "Conflict", fmt.Sprintf("Tag %s:%s already exists in target registry.", t.repository, t.tag)}
}
