package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cloister-dev/cloister/internal/app/projection"
	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/engine/controlplane"
	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// workstations is where `cloister shell`'s addresses in public are.
var workstations = netip.MustParsePrefix("198.18.8.0/21")

// platformDNS is Azure's resolver in every virtual network.
var platformDNS = bootstrap.AzureDNS.String()

// adminSession makes a session and keeps it for as long as the caller stays connected.
func (s *Service) adminSession(w http.ResponseWriter, r *http.Request) {
	select {
	case <-s.ready:
	case <-r.Context().Done():
		return
	}
	var request adminapi.SessionRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&request); err != nil {
		writeAdmin(w, nil, armerror.New(armerror.InvalidRequestContent, "The request is not JSON: %v", err), s)
		return
	}
	// Two sessions that start together must not choose the same address.
	s.placing.Lock()
	session, answer, err := s.newSession(r.Context(), request)
	if err == nil {
		s.world.keep(session)
	}
	s.placing.Unlock()
	if err != nil {
		writeAdmin(w, nil, err, s)
		return
	}
	defer func() {
		// The caller is gone; what was made for it goes too.
		if err := s.world.RemoveSession(context.WithoutCancel(r.Context()), session.Name); err != nil {
			s.Log.Error("remove a session", "session", session.Name, "error", err)
		}
	}()
	if err := s.world.Sync(r.Context()); err != nil {
		writeAdmin(w, nil, err, s)
		return
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		return
	}
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	<-r.Context().Done()
}

func (s *Service) newSession(ctx context.Context, request adminapi.SessionRequest) (projection.Session, adminapi.Session, error) {
	session := projection.Session{Name: "jump-" + randomHex(4)}
	answer := adminapi.Session{CABundle: string(s.root.CertPEM), Path: []string{s.toolDir()}, Env: map[string]string{}}
	if request.Login {
		answer.Login = s.instance.login()
	}
	network := request.Network
	switch {
	case request.Cluster != "":
		id, err := resourceid.Parse(request.Cluster)
		if err != nil {
			return session, answer, armerror.New(armerror.InvalidParameter, "%v", err)
		}
		r, err := s.store.Get(ctx, id)
		if err != nil {
			return session, answer, armerror.New(armerror.ResourceNotFound, "There is no cluster %s; `cloister status` lists them.", id.Name())
		}
		var doc struct {
			Properties struct {
				PrivateFQDN, FQDN      string
				APIServerAccessProfile struct{ EnablePrivateCluster, EnableVnetIntegration bool }
			}
			Cloister struct{ ClusterID, SubnetID, EndpointAddress string }
		}
		if err := json.Unmarshal(r.Body, &doc); err != nil {
			return session, answer, err
		}
		subnet, err := resourceid.Parse(doc.Cloister.SubnetID)
		if err != nil || doc.Cloister.SubnetID == "" {
			return session, answer, armerror.New(armerror.OperationNotAllowed, "Cluster %s has no network yet.", id.Name())
		}
		vnet, _ := subnet.Parent()
		network = vnet.String()
		// As the cluster's nodes do it: a public cluster's VNet need not have a way to the public address.
		server := doc.Properties.FQDN
		switch a := doc.Properties.APIServerAccessProfile; {
		case a.EnablePrivateCluster && doc.Properties.PrivateFQDN != "":
			server = doc.Properties.PrivateFQDN
		case a.EnableVnetIntegration:
			server = doc.Cloister.EndpointAddress
		}
		config, err := s.planes.AdminKubeconfig(doc.Cloister.ClusterID, "https://"+server+":443",
			controlplane.Names{Cluster: id.Name(), User: "clusterAdmin_" + id.ResourceGroup() + "_" + id.Name(), Context: id.Name()})
		if err != nil {
			return session, answer, fmt.Errorf("the cluster has no credentials yet: %w", err)
		}
		answer.Kubeconfig = string(config)
	case request.Interface != "":
		if err := s.placeAt(ctx, request.Interface, &session); err != nil {
			return session, answer, err
		}
	case request.Network == "":
		session.Name = "shell-" + randomHex(4)
		session.Address = s.freeWorkstation()
		answer.Nameservers = []string{projection.AddressDNS.String()}
	}
	if network != "" {
		if err := s.placeJumpBox(ctx, network, &session); err != nil {
			return session, answer, err
		}
	}
	if !session.Network.IsZero() {
		var err error
		if session.Identities, err = s.identities(ctx, request.Identities); err != nil {
			return session, answer, err
		}
		if answer.Nameservers, err = s.guestNameservers(ctx, session.Network); err != nil {
			return session, answer, err
		}
	}
	answer.NetNS, answer.Address = s.layout.NetNS(session.Name), session.Address.String()
	return session, answer, nil
}

// identities are the user-assigned identities of these resource IDs.
func (s *Service) identities(ctx context.Context, texts []string) ([]resourceid.ID, error) {
	var out []resourceid.ID
	for _, text := range texts {
		id, err := resourceid.Parse(text)
		if err != nil || !id.Is("Microsoft.ManagedIdentity/userAssignedIdentities") {
			return nil, armerror.New(armerror.InvalidParameter, "%q is not the resource ID of a user-assigned identity.", text)
		}
		if _, err := s.store.Get(ctx, id); err != nil {
			return nil, armerror.New(armerror.ResourceNotFound, "There is no user-assigned identity %s.", id)
		}
		out = append(out, id)
	}
	return out, nil
}

// guestNameservers are the DNS servers that a virtual network's DHCP names to a machine that starts.
func (s *Service) guestNameservers(ctx context.Context, network resourceid.ID) ([]string, error) {
	r, err := s.store.Get(ctx, network)
	if err != nil {
		return nil, armerror.New(armerror.ResourceNotFound, "There is no virtual network %s.", network)
	}
	var doc struct {
		Properties struct {
			DHCPOptions struct{ DNSServers []string }
		}
	}
	if err := json.Unmarshal(r.Body, &doc); err != nil {
		return nil, fmt.Errorf("read %s: %w", network, err)
	}
	if servers := doc.Properties.DHCPOptions.DNSServers; len(servers) > 0 {
		return servers, nil
	}
	return []string{platformDNS}, nil
}

// toolDir holds links to the tools that a session finds first in its path, and to nothing else.
func (s *Service) toolDir() string {
	dir := filepath.Join(s.layout.DataDir, "tools")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return s.set.Bin
	}
	for _, tool := range []string{"kubectl", "crane", "oras"} {
		link, target := filepath.Join(dir, tool), filepath.Join(s.set.Bin, tool)
		if now, err := os.Readlink(link); err == nil && now == target {
			continue
		}
		_ = os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			return s.set.Bin
		}
	}
	return dir
}

func (s *Service) freeWorkstation() netip.Addr {
	used := map[netip.Addr]bool{}
	for _, x := range s.world.Sessions() {
		used[x.Address] = true
	}
	a := workstations.Addr().Next()
	for used[a] {
		a = a.Next()
	}
	return a
}

// placeJumpBox finds an address from the end of a subnet, where Azure, which gives from the beginning, comes last.
func (s *Service) placeJumpBox(ctx context.Context, network string, session *projection.Session) error {
	id, err := resourceid.Parse(network)
	if err != nil || !id.Is("Microsoft.Network/virtualNetworks") {
		return armerror.New(armerror.InvalidParameter, "%q is not the resource ID of a virtual network.", network)
	}
	subnets, err := s.store.List(ctx, resourcestore.Filter{Under: id, Type: "Microsoft.Network/virtualNetworks/subnets"})
	if err != nil {
		return err
	}
	used, err := s.usedAddresses(ctx)
	if err != nil {
		return err
	}
	for _, r := range subnets {
		var doc struct {
			Properties struct {
				AddressPrefix   string
				AddressPrefixes []string
				Delegations     []json.RawMessage
			}
		}
		if err := json.Unmarshal(r.Body, &doc); err != nil {
			return err
		}
		text := doc.Properties.AddressPrefix
		if text == "" && len(doc.Properties.AddressPrefixes) > 0 {
			text = doc.Properties.AddressPrefixes[0]
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil || len(doc.Properties.Delegations) > 0 {
			continue
		}
		taken := used[r.ID.Key()]
		for _, x := range s.world.Sessions() {
			if x.Network.Equal(id) {
				taken = append(taken, x.Address)
			}
		}
		for a := last(prefix).Prev(); prefix.Contains(a); a = a.Prev() {
			if !slices.Contains(taken, a) {
				session.Network, session.Subnet, session.Address = id, strings.ToLower(r.ID.Name()), a
				return nil
			}
		}
	}
	return armerror.New(armerror.OperationNotAllowed, "The virtual network %s has no subnet with a free address for a jump box.", id.Name())
}

// placeAt puts a jump box behind a network interface that nothing is behind.
func (s *Service) placeAt(ctx context.Context, text string, session *projection.Session) error {
	id, err := resourceid.Parse(text)
	if err != nil || !id.Is("Microsoft.Network/networkInterfaces") {
		return armerror.New(armerror.InvalidParameter, "%q is not the resource ID of a network interface.", text)
	}
	r, err := s.store.Get(ctx, id)
	if err != nil {
		return armerror.New(armerror.ResourceNotFound, "There is no network interface %s.", id)
	}
	var nic struct {
		ManagedBy  string
		Properties struct {
			VirtualMachine, PrivateEndpoint *struct{ ID string }
			IPConfigurations                []struct {
				Properties struct {
					Primary          bool
					PrivateIPAddress netip.Addr
					Subnet           struct{ ID resourceid.ID }
				}
			}
		}
	}
	if err := json.Unmarshal(r.Body, &nic); err != nil {
		return fmt.Errorf("read %s: %w", id, err)
	}
	inUse := slices.ContainsFunc(s.world.Sessions(), func(x projection.Session) bool { return x.Interface.Equal(id) && !x.Interface.IsZero() })
	if inUse || nic.ManagedBy != "" || nic.Properties.VirtualMachine != nil || nic.Properties.PrivateEndpoint != nil {
		return armerror.New(armerror.OperationNotAllowed, "The network interface %s has a machine, a private endpoint or another shell behind it.", id.Name())
	}
	for _, c := range nic.Properties.IPConfigurations {
		vnet, ok := c.Properties.Subnet.ID.Parent()
		if ok && (c.Properties.Primary || !session.Address.IsValid()) {
			session.Interface, session.Network, session.Subnet = id, vnet, strings.ToLower(c.Properties.Subnet.ID.Name())
			session.Address = c.Properties.PrivateIPAddress
		}
	}
	return nil
}

// usedAddresses are the addresses of network interfaces, by the key of their subnet.
func (s *Service) usedAddresses(ctx context.Context) (map[string][]netip.Addr, error) {
	nics, err := s.store.List(ctx, resourcestore.Filter{Type: "Microsoft.Network/networkInterfaces"})
	if err != nil {
		return nil, err
	}
	used := map[string][]netip.Addr{}
	for _, r := range nics {
		var nic struct {
			Properties struct {
				IPConfigurations []struct {
					Properties struct {
						PrivateIPAddress string
						Subnet           struct{ ID resourceid.ID }
					}
				}
			}
		}
		if err := json.Unmarshal(r.Body, &nic); err != nil {
			return nil, err
		}
		for _, c := range nic.Properties.IPConfigurations {
			if a, err := netip.ParseAddr(c.Properties.PrivateIPAddress); err == nil {
				key := c.Properties.Subnet.ID.Key()
				used[key] = append(used[key], a)
			}
		}
	}
	return used, nil
}

// last is the last address of an IPv4 prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}
