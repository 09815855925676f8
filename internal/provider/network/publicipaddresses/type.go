// Package publicipaddresses is the resource type Microsoft.Network/publicIPAddresses: an address of the Internet, which
// here is the namespace `public`. It gives the address when the document is written; what the address does follows
// from the resource that names it.
//
// https://learn.microsoft.com/rest/api/virtualnetwork/public-ip-addresses
package publicipaddresses

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/network/egressuse"
)

// Name is the resource type.
const Name = egressuse.PublicIPAddresses

// space is where addresses come from: the half of 198.19.0.0/16 that the fabric does not give to default outbound access.
var space = netip.MustParsePrefix("198.19.128.0/17")

// Model is the document of a public IP address.
type Model struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	SKU        *SKU              `json:"sku,omitempty"`
	Properties Properties        `json:"properties"`
}

// SKU is a public IP address's.
type SKU struct {
	Name string `json:"name,omitempty"`
	Tier string `json:"tier,omitempty"`
}

// Properties are a public IP address's.
type Properties struct {
	ResourceGUID             string            `json:"resourceGuid,omitempty"`
	IPAddress                string            `json:"ipAddress,omitempty"`
	PublicIPAddressVersion   string            `json:"publicIPAddressVersion,omitempty"`
	PublicIPAllocationMethod string            `json:"publicIPAllocationMethod,omitempty"`
	IdleTimeoutInMinutes     int               `json:"idleTimeoutInMinutes,omitempty"`
	IPTags                   []json.RawMessage `json:"ipTags"`
	DNSSettings              *struct {
		DomainNameLabel string `json:"domainNameLabel,omitempty"`
		ReverseFQDN     string `json:"reverseFqdn,omitempty"`
	} `json:"dnsSettings,omitempty"`
	DDoSSettings *struct {
		ProtectionMode     string          `json:"protectionMode,omitempty"`
		DDoSProtectionPlan *egressuse.Link `json:"ddosProtectionPlan,omitempty"`
	} `json:"ddosSettings,omitempty"`
	PublicIPPrefix        *egressuse.Link `json:"publicIPPrefix,omitempty"`
	LinkedPublicIPAddress *egressuse.Link `json:"linkedPublicIPAddress,omitempty"`

	// Only in answers.
	IPConfiguration *egressuse.Link `json:"ipConfiguration,omitempty"`
	NATGateway      *egressuse.Link `json:"natGateway,omitempty"`
}

// World is the machine's state, computed from all documents.
type World interface {
	// Sync returns when the machine agrees with the documents stored before the call.
	Sync(ctx context.Context) error
}

// Type is the resource type; see Spec for its arguments.
func Type(w World) resourcetype.Definition { return resourcetype.Define(Spec(w)) }

// Spec declares the type.
func Spec(w World) resourcetype.Spec[Model] {
	return resourcetype.Spec[Model]{
		Name:          Name,
		NameRule:      regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,78}[a-zA-Z0-9_])?$`),
		NameCode:      "InvalidResourceName",
		NameMessage:   "Resource name is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
		Prepare:       prepare,
		PrepareDelete: prepareDelete,
		Render:        render,
		Reconcile: func(ctx context.Context, r *resourcetype.Reconciliation[Model]) (resourcetype.Result, error) {
			r.Step("public IP address")
			if err := w.Sync(ctx); err != nil {
				return resourcetype.Result{}, fmt.Errorf("apply %s: %w", r.ID, err)
			}
			return resourcetype.Result{}, nil
		},
	}
}

// Idle timeouts in minutes: Azure's default, and that of the addresses that AKS makes. They are kept, and no others: the
// kernel's clock ends flows, whatever is said.
const (
	defaultIdle  = 4
	clustersIdle = 30
)

func prepare(ctx context.Context, r *resourcetype.Request[Model]) error {
	if err := armerror.Join(validate(r.ID, r.Model)); err != nil {
		return err
	}
	m, p := r.Model, &r.Model.Properties
	m.SKU = &SKU{Name: "Standard", Tier: "Regional"}
	p.PublicIPAddressVersion, p.PublicIPAllocationMethod = "IPv4", "Static"
	if p.IdleTimeoutInMinutes == 0 {
		p.IdleTimeoutInMinutes = defaultIdle
	}
	p.IPTags, p.IPConfiguration, p.NATGateway = []json.RawMessage{}, nil, nil
	if r.Existing != nil {
		p.ResourceGUID, p.IPAddress = r.Existing.Properties.ResourceGUID, r.Existing.Properties.IPAddress
		return nil
	}
	p.ResourceGUID = uuid.NewString()
	address, err := next(ctx, r.Documents)
	if err != nil {
		return err
	}
	p.IPAddress = address.String()
	return nil
}

// next is the lowest address that no document has. One that is being deleted still has its address.
func next(ctx context.Context, docs resourcetype.Reader) (netip.Addr, error) {
	list, err := docs.List(ctx, resourceid.ID{}, Name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list public IP addresses: %w", err)
	}
	taken := map[string]bool{}
	for _, r := range list {
		var m Model
		if err := json.Unmarshal(r.Body, &m); err != nil {
			return netip.Addr{}, fmt.Errorf("read %s: %w", r.ID, err)
		}
		taken[m.Properties.IPAddress] = true
	}
	for a := space.Addr().Next(); space.Contains(a); a = a.Next() {
		if !taken[a.String()] {
			return a, nil
		}
	}
	return netip.Addr{}, armerror.New("PublicIPCountLimitReached", "Cannot create more public IP addresses: all of %s are in use.", space)
}

func validate(id resourceid.ID, m *Model) []*armerror.Error {
	var problems []*armerror.Error
	add := func(target string, e *armerror.Error) { problems = append(problems, e.WithTarget(target)) }
	refuse := func(target, what string) {
		add(target, armerror.New(armerror.NotSupported, "%s of public IP address '%s' is not supported by Cloister.", what, id.Name()))
	}
	if s := m.SKU; s != nil {
		if s.Name != "" && !strings.EqualFold(s.Name, "Standard") {
			refuse("sku.name", "The SKU "+s.Name)
		}
		if s.Tier != "" && !strings.EqualFold(s.Tier, "Regional") {
			refuse("sku.tier", "The tier "+s.Tier)
		}
	}
	p := &m.Properties
	if v := p.PublicIPAllocationMethod; v != "" && !strings.EqualFold(v, "Static") {
		refuse("properties.publicIPAllocationMethod", "The allocation method "+v)
	}
	if v := p.PublicIPAddressVersion; v != "" && !strings.EqualFold(v, "IPv4") {
		refuse("properties.publicIPAddressVersion", "The version "+v)
	}
	if n := p.IdleTimeoutInMinutes; n != 0 && (n < 4 || n > 30) {
		add("properties.idleTimeoutInMinutes", armerror.New("IdleTimeoutOutOfRange", "The idle timeout of public IP address '%s' is %d minutes. It must be between 4 and 30.", id.Name(), n))
	} else if n != 0 && n != defaultIdle && n != clustersIdle {
		refuse("properties.idleTimeoutInMinutes", fmt.Sprintf("An idle timeout of %d minutes", n))
	}
	if len(p.IPTags) > 0 {
		refuse("properties.ipTags", "An IP tag")
	}
	if d := p.DNSSettings; d != nil && (d.DomainNameLabel != "" || d.ReverseFQDN != "") {
		refuse("properties.dnsSettings", "A DNS name")
	}
	if d := p.DDoSSettings; d != nil && (d.DDoSProtectionPlan != nil || strings.EqualFold(d.ProtectionMode, "Enabled")) {
		refuse("properties.ddosSettings", "DDoS protection")
	}
	if p.PublicIPPrefix != nil {
		refuse("properties.publicIPPrefix", "A prefix")
	}
	if p.LinkedPublicIPAddress != nil {
		refuse("properties.linkedPublicIPAddress", "A linked address")
	}
	return problems
}

func prepareDelete(ctx context.Context, r *resourcetype.Request[Model]) error {
	u, err := use(ctx, r.Documents, r.ID)
	if err != nil || u == nil {
		return err
	}
	return armerror.New("PublicIPAddressCannotBeDeleted", "Public IP address %s can not be deleted since it is still allocated to resource %s. In order to delete the public IP, disassociate/detach the Public IP address from the resource. To learn how to do this, see aka.ms/deletepublicip.", r.ID, u.Reference)
}

func use(ctx context.Context, docs resourcetype.Reader, id resourceid.ID) (*egressuse.Use, error) {
	uses, err := egressuse.OfPublicIPs(ctx, docs)
	if err != nil {
		return nil, err
	}
	for _, u := range uses {
		if u.PublicIP.Equal(id) {
			return &u, nil
		}
	}
	return nil, nil
}

func render(ctx context.Context, v *resourcetype.View[Model]) error {
	u, err := use(ctx, v.Documents, v.ID)
	if err != nil || u == nil {
		return err
	}
	link := &egressuse.Link{ID: u.Reference}
	if u.Owner.Is(egressuse.NATGateways) {
		v.Model.Properties.NATGateway = link
	} else {
		v.Model.Properties.IPConfiguration = link
	}
	return nil
}
