package diagnosis

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// Names of links, in the order in which they are told.
const (
	linkOperation  = "operation"
	linkNameserver = "DNS server"
	linkName       = "name"
	linkZone       = "zone"
	linkLink       = "link"
	linkRecord     = "record"
	linkEndpoint   = "endpoint"
	linkApproval   = "approval"
	linkPath       = "path"
	linkRegistry   = "registry"
	linkIdentity   = "identity"
	linkRole       = "role"
	linkRule       = "rule"
	linkUpstream   = "upstream"
	linkWayOut     = "way out"
	linkServer     = "API server"
	linkMetadata   = "metadata"
	linkImage      = "image"
	linkGeneration = "generation"
)

// What gives a service its private name and address is made together.
var (
	// setUpCauses are its parts in the order in which one is the cause of another's fault: without an endpoint there is no
	// address for a record.
	setUpCauses = []string{linkEndpoint, linkApproval, linkZone, linkLink, linkRecord}
	// setUpOrder is the order in which the commands must be typed: a zone group wants a zone and an endpoint.
	setUpOrder = []string{linkZone, linkLink, linkEndpoint, linkApproval, linkRecord}
)

// chain is a list of links under way.
type chain struct {
	links []chainLink
	// service is what the links that are added next are about: a registry or an API server.
	service string
	blocked []blocked
}

type chainLink struct {
	adminapi.Link
	service string
}

func (c *chain) add(state, name, subject string, mend []string, format string, args ...any) {
	c.links = append(c.links, chainLink{adminapi.Link{Name: name, Subject: subject, State: state, Saw: fmt.Sprintf(format, args...), Mend: mend}, c.service})
}

func (c *chain) fine(name, subject, format string, args ...any) {
	c.add(adminapi.LinkFine, name, subject, nil, format, args...)
}

func (c *chain) broken(name, subject string, mend []string, format string, args ...any) {
	c.add(adminapi.LinkBroken, name, subject, mend, format, args...)
}

func (c *chain) unknown(name, subject, format string, args ...any) {
	c.add(adminapi.LinkUnknown, name, subject, nil, format, args...)
}

// each follows what does not wait for one another at the same time: a lost packet costs more than a second. What was found
// is told in the list's order, as if it had been followed one after the other.
func each[T any](c *chain, list []T, follow func(*chain, T)) {
	for _, part := range atOnce(list, func(one T) chain {
		part := chain{service: c.service}
		follow(&part, one)
		return part
	}) {
		for _, b := range part.blocked {
			b.link += len(c.links)
			c.blocked = append(c.blocked, b)
		}
		c.links = append(c.links, part.links...)
	}
}

// together follows parts of a chain as each does.
func (c *chain) together(parts ...func(*chain)) {
	each(c, parts, func(c *chain, part func(*chain)) { part(c) })
}

// atOnce asks of all at the same time. The answers are in the list's order.
func atOnce[T, A any](list []T, of func(T) A) []A {
	answers := make([]A, len(list))
	var asked sync.WaitGroup
	for i, one := range list {
		asked.Go(func() { answers[i] = of(one) })
	}
	asked.Wait()
	return answers
}

// isBroken reports whether one of the named links is.
func (c *chain) isBroken(names ...string) bool {
	return slices.ContainsFunc(c.links, func(l chainLink) bool {
		return l.State == adminapi.LinkBroken && slices.Contains(names, l.Name)
	})
}

// of are the broken links of that name of a service.
func (c *chain) of(service, name string) (out []adminapi.Link) {
	for _, l := range c.links {
		if l.service == service && l.Name == name && l.State == adminapi.LinkBroken {
			out = append(out, l.Link)
		}
	}
	return out
}

// cause is the broken link that the others follow from: the first, but that a name which does not resolve, or leads elsewhere,
// is a symptom where something that it stands on is broken. What gives a service its private name and address is
// mended as a whole: one of its parts alone would change nothing.
func (c *chain) cause() *adminapi.Link {
	for _, l := range c.links {
		if l.State != adminapi.LinkBroken {
			continue
		}
		if l.Name == linkName || slices.Contains(setUpCauses, l.Name) {
			if cause := c.setUpCause(l.service); cause != nil {
				return cause
			}
		}
		return &l.Link
	}
	return nil
}

// setUpCause is the part of a service's private name and address that the others' faults follow from, with the commands for all.
func (c *chain) setUpCause(service string) *adminapi.Link {
	for _, name := range setUpCauses {
		found := c.of(service, name)
		if len(found) == 0 {
			continue
		}
		cause := found[0]
		cause.Mend = nil
		for _, part := range setUpOrder {
			for _, l := range c.of(service, part) {
				for _, line := range l.Mend {
					if !slices.Contains(cause.Mend, line) {
						cause.Mend = append(cause.Mend, line)
					}
				}
			}
		}
		return &cause
	}
	return nil
}

// linkTogether has a virtual network that is linked to one zone too few linked to the others that it lacks as well: it is mostly
// the same mistake, of a hub that all names are asked of, and would show for the next service after the next try.
func (c *chain) linkTogether(cause *adminapi.Link, again []string) {
	if cause == nil || cause.Name != linkLink {
		return
	}
	for _, l := range c.links {
		if l.State != adminapi.LinkBroken || l.Name != linkLink {
			continue
		}
		for _, line := range l.Mend {
			if !slices.Contains(cause.Mend, line) && !slices.Contains(again, line) {
				cause.Mend = append(cause.Mend, line)
			}
		}
	}
}

// finish makes a Diagnosis of the chain. again are the commands that make the resource try again.
func (c *chain) finish(d adminapi.Diagnosis, again ...string) adminapi.Diagnosis {
	c.unblock()
	d.Links = make([]adminapi.Link, 0, len(c.links))
	for _, l := range c.links {
		d.Links = append(d.Links, l.Link)
	}
	d.Cause = c.cause()
	c.linkTogether(d.Cause, again)
	d.Healthy = d.Healthy && d.Cause == nil
	if !d.Healthy {
		d.Then = again
	}
	if d.Cause != nil && slices.Equal(d.Cause.Mend, again) {
		d.Then = nil // it tries again by what mends it
	}
	return d
}

// az is a command line of the Azure CLI that a shell takes as it is printed.
func az(words ...string) string {
	var b strings.Builder
	b.WriteString("az")
	for _, w := range words {
		b.WriteByte(' ')
		b.WriteString(quote(w))
	}
	return b.String()
}

// quote protects what a shell would read as more than text. A command substitution is meant as one.
func quote(w string) string {
	if strings.HasPrefix(w, "$(") || strings.HasPrefix(w, `"$(`) {
		return w
	}
	if w != "" && strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@+") == "" {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}
