package reconcile

import (
	"crypto/sha256"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// graph knows who points to whom, and what each document said when it was last seen.
type graph struct {
	types   *resourcetype.Types
	nodes   map[string]node
	inverse map[string]map[string]bool // referenced key → referrers' keys
}

type node struct {
	id         resourceid.ID
	content    [sha256.Size]byte
	references []resourceid.ID
	reconciles bool
}

func newGraph(types *resourcetype.Types) *graph {
	return &graph{types: types, nodes: map[string]node{}, inverse: map[string]map[string]bool{}}
}

// put takes the document up and reports whether it says something else than before, its state apart.
func (g *graph) put(r resourcestore.Resource) (changed bool) {
	key := r.ID.Key()
	n := node{id: r.ID}
	if body, err := resourcetype.WithState(r.Body, ""); err == nil {
		n.content = sha256.Sum256(body)
	}
	if d, ok := g.types.Lookup(r.ID.Type()); ok {
		n.reconciles = d.Reconciles
		// A document whose references cannot be read has none; its reconcile will tell.
		if refs, err := d.References(r.Body); err == nil {
			for _, ref := range refs {
				n.references = append(n.references, ref.ID)
			}
		}
	}
	old, had := g.nodes[key]
	g.unlink(old)
	for _, ref := range n.references {
		m := g.inverse[ref.Key()]
		if m == nil {
			m = map[string]bool{}
			g.inverse[ref.Key()] = m
		}
		m[key] = true
	}
	g.nodes[key] = n
	return !had || old.content != n.content
}

func (g *graph) remove(id resourceid.ID) (changed bool) {
	old, had := g.nodes[id.Key()]
	g.unlink(old)
	delete(g.nodes, id.Key())
	return had
}

func (g *graph) unlink(n node) {
	for _, ref := range n.references {
		delete(g.inverse[ref.Key()], n.id.Key())
		if len(g.inverse[ref.Key()]) == 0 {
			delete(g.inverse, ref.Key())
		}
	}
}

// referrers are the resources with a reconcile that point to id.
func (g *graph) referrers(id resourceid.ID) []resourceid.ID {
	var out []resourceid.ID
	for key := range g.inverse[id.Key()] {
		if n := g.nodes[key]; n.reconciles {
			out = append(out, n.id)
		}
	}
	return out
}

// related reports whether a change of changed concerns a resource that waits: it lies in it or holds it, or
// the resource points to it, to what it lies in or to what lies in it.
func (g *graph) related(waiting, changed resourceid.ID) bool {
	if waiting.Contains(changed) || changed.Contains(waiting) {
		return true
	}
	for _, ref := range g.nodes[waiting.Key()].references {
		if ref.Contains(changed) || changed.Contains(ref) {
			return true
		}
	}
	return false
}
