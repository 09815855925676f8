package privateendpoints

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/provider/providertest"
)

const (
	group    = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg-netiso"
	vnet     = group + "/providers/Microsoft.Network/virtualNetworks/vnet-netiso"
	snet     = vnet + "/subnets/snet-acr"
	registry = group + "/providers/Microsoft.ContainerRegistry/registries/netisoreg01"
	cluster  = group + "/providers/Microsoft.ContainerService/managedClusters/c"
	id       = group + "/providers/Microsoft.Network/privateEndpoints/myPrivateEndpoint"
)

// create is what az network private-endpoint create sends.
const create = `{"location": "eastus", "properties": {"privateLinkServiceConnections": [{"name": "myConnection", "properties": {"groupIds": ["registry"], "privateLinkServiceId": "` + registry + `"}}], "subnet": {"id": "` + snet + `"}}}`

type roles bool

func (r roles) Allowed(_ context.Context, _ resourcetype.Principal, action string, scope resourceid.ID) (bool, error) {
	if action != "Microsoft.ContainerRegistry/registries/privateEndpointConnectionsApproval/action" && action != "Microsoft.ContainerService/managedClusters/privateEndpointConnectionsApproval/action" {
		return false, errors.New("asked for " + action)
	}
	return bool(r), nil
}

func documents(t *testing.T) *providertest.Documents {
	d := providertest.New()
	d.Put(t, vnet, `{"location":"eastus"}`)
	d.Put(t, snet, `{"properties":{"addressPrefix":"192.168.2.0/24"}}`)
	d.Put(t, registry, `{"location":"eastus","sku":{"name":"Premium"},"properties":{"loginServer":"netisoreg01.azurecr.io"}}`)
	d.Put(t, group+"/providers/Microsoft.ContainerRegistry/registries/basic", `{"location":"eastus","sku":{"name":"Basic"},"properties":{"loginServer":"basic.azurecr.io"}}`)
	d.Put(t, cluster, `{"location":"eastus","properties":{"privateFQDN":"c-1.guid.privatelink.eastus.azmk8s.io","apiServerAccessProfile":{"enablePrivateCluster":true}}}`)
	return d
}

func put(t *testing.T, d *providertest.Documents, r roles, id, body string) (*Model, error) {
	t.Helper()
	return providertest.Prepare(t, d, Spec(&providertest.World{}, r), id, "2022-01-01", body)
}

func TestMembersAndNames(t *testing.T) {
	d := documents(t)
	m, err := put(t, d, true, id, create)
	if err != nil {
		t.Fatal(err)
	}
	members := m.Cloister.Members
	if len(members) != 2 || members[0].Name != "registry_data_eastus" || members[0].Address != "192.168.2.4" || members[1].Name != "registry" || members[1].Address != "192.168.2.5" {
		t.Errorf("members %+v", members)
	}
	if members[0].FQDNs[0] != "netisoreg01.eastus.data.azurecr.io" || members[1].FQDNs[0] != "netisoreg01.azurecr.io" {
		t.Errorf("names %+v", members)
	}
	if !regexp.MustCompile(`^` + group + `/providers/Microsoft.Network/networkInterfaces/myPrivateEndpoint\.nic\.[0-9a-f-]{36}$`).MatchString(m.Properties.NetworkInterfaces[0].ID) {
		t.Errorf("interface %s", m.Properties.NetworkInterfaces[0].ID)
	}
	if !regexp.MustCompile(`^`+registry+`/privateEndpointConnections/myPrivateEndpoint\.[0-9a-f]{32}$`).MatchString(m.Cloister.Connection) || !m.Cloister.AutoApproved {
		t.Errorf("connection %+v", m.Cloister)
	}
	if !regexp.MustCompile(`^privateEndpointIpConfig\.[0-9a-f-]{36}$`).MatchString(members[0].IPConfiguration) {
		t.Errorf("configuration %s", members[0].IPConfiguration)
	}
	// A second endpoint takes the next addresses and its own service-side numbers.
	other, err := put(t, d, false, id+"2", create)
	if err != nil || other.Cloister.Members[0].Address != "192.168.2.6" || other.Cloister.AutoApproved {
		t.Fatalf("%+v, %v", other, err)
	}
	seen := map[int]bool{}
	for _, member := range append(members, other.Cloister.Members...) {
		if seen[member.ServiceIndex] || member.ServiceIndex < 1 {
			t.Errorf("service index %d", member.ServiceIndex)
		}
		seen[member.ServiceIndex] = true
	}
	// A repeated PUT keeps all of it.
	again, err := put(t, d, true, id, create)
	if err != nil || again.Properties.NetworkInterfaces[0] != m.Properties.NetworkInterfaces[0] || again.Cloister.Connection != m.Cloister.Connection || again.Cloister.Members[0].Address != "192.168.2.4" {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestAnswer(t *testing.T) {
	d := documents(t)
	m, err := put(t, d, true, id, create)
	if err != nil {
		t.Fatal(err)
	}
	shown := providertest.Render(t, d, Spec(&providertest.World{}, roles(true)), id)
	state := shown.Properties.PrivateLinkServiceConnections[0].Properties.State
	if *state != (State{"Approved", "Auto-Approved", "None"}) {
		t.Errorf("%+v", state)
	}
	want := `[{"fqdn":"netisoreg01.eastus.data.azurecr.io","ipAddresses":["192.168.2.4"]},{"fqdn":"netisoreg01.azurecr.io","ipAddresses":["192.168.2.5"]}]`
	if got, _ := json.Marshal(shown.Properties.CustomDNSConfigs); string(got) != want {
		t.Errorf("%s", got)
	}
	if got, _ := json.Marshal(shown.Properties.ManualPrivateLinkServiceConnections); string(got) != "[]" {
		t.Errorf("%s", got)
	}
	// The owner decides from then on.
	m.Cloister.ConnectionMade = true
	d.Put(t, id, m)
	d.Put(t, m.Cloister.Connection, `{"properties":{"privateLinkServiceConnectionState":{"status":"Rejected","description":"no","actionsRequired":"None"}}}`)
	if s, err := ConnectionState(t.Context(), d, m); err != nil || s.Status != Rejected {
		t.Errorf("%+v, %v", s, err)
	}
	d.Remove(m.Cloister.Connection)
	if s, err := ConnectionState(t.Context(), d, m); err != nil || s.Status != Disconnected {
		t.Errorf("%+v, %v", s, err)
	}
	d.Put(t, id+"/privateDnsZoneGroups/default", `{}`)
	if shown = providertest.Render(t, d, Spec(&providertest.World{}, roles(true)), id); len(*shown.Properties.CustomDNSConfigs) != 0 {
		t.Error("names are shown though a zone group keeps them")
	}
}

func TestRefuses(t *testing.T) {
	body := func(connection, subnet, more string) string {
		return `{"location":"eastus","properties":{"privateLinkServiceConnections":[` + connection + `],"subnet":{"id":"` + subnet + `"}` + more + `}}`
	}
	conn := func(target, group string) string {
		return `{"name":"c","properties":{"groupIds":["` + group + `"],"privateLinkServiceId":"` + target + `"}}`
	}
	ip := func(member, address string) string {
		return `,"ipConfigurations":[{"name":"i","properties":{"groupId":"registry","memberName":"` + member + `","privateIPAddress":"` + address + `"}}]`
	}
	for b, want := range map[string]string{
		body(conn(registry, "management"), snet, ""):                                           "InvalidPrivateLinkServiceGroupIds@properties.privateLinkServiceConnections[0].properties.groupIds",
		body(conn(registry+"x", "registry"), snet, ""):                                         "InvalidResourceReference@" + connectionID,
		body(conn(strings.Replace(registry, "netisoreg01", "basic", 1), "registry"), snet, ""): "PrivateLinkNotSupportedForSku@" + connectionID,
		body(conn(group+"/providers/Microsoft.Storage/storageAccounts/s", "blob"), snet, ""):   "NotSupported@properties.privateLinkServiceConnections[0].properties.groupIds",
		body(conn(registry, "registry"), snet+"x", ""):                                         "InvalidResourceReference@properties.subnet.id",
		body(conn(registry, "registry"), vnet, ""):                                             "LinkedInvalidPropertyId@properties.subnet.id",
		body("", snet, ""): "InvalidPrivateEndpointConnections@properties.privateLinkServiceConnections",
		body(conn(registry, "registry"), snet, ip("registry", "192.168.2.3")):                                                                      "PrivateIPAddressInReservedRange@properties.ipConfigurations[0].properties.privateIPAddress",
		body(conn(registry, "registry"), snet, ip("other", "192.168.2.9")):                                                                         "InvalidPrivateEndpointIPConfiguration@properties.ipConfigurations[0].properties.memberName",
		`{"location":"westus","properties":{"privateLinkServiceConnections":[` + conn(registry, "registry") + `],"subnet":{"id":"` + snet + `"}}}`: "InvalidResourceReference@properties.subnet.id",
	} {
		_, err := put(t, documents(t), true, id, b)
		if got := providertest.Codes(err); got != want {
			t.Errorf("%s\n got %q\nwant %q", b, got, want)
		}
	}
	m, err := put(t, documents(t), true, id, body(conn(registry, "registry"), snet, ip("registry", "192.168.2.4")))
	if err != nil || m.Cloister.Members[1].Address != "192.168.2.4" || m.Cloister.Members[1].IPConfiguration != "i" || m.Cloister.Members[0].Address != "192.168.2.5" {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestWhatNeverChanges(t *testing.T) {
	d := documents(t)
	if _, err := put(t, d, true, id, create); err != nil {
		t.Fatal(err)
	}
	d.Put(t, vnet+"/subnets/other", `{"properties":{"addressPrefix":"192.168.3.0/24"}}`)
	_, err := put(t, d, true, id, strings.Replace(create, "snet-acr", "other", 1))
	if got := providertest.Codes(err); got != "PropertyChangeNotAllowed@properties.subnet.id" {
		t.Errorf("%q", got)
	}
}

func TestCluster(t *testing.T) {
	m, err := put(t, documents(t), true, id, `{"location":"eastus","properties":{"privateLinkServiceConnections":[{"name":"kube","properties":{"groupIds":["management"],"privateLinkServiceId":"`+cluster+`"}}],"subnet":{"id":"`+snet+`"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Cloister.Members) != 1 || m.Cloister.Members[0].Name != "management" || m.Cloister.Members[0].FQDNs[0] != "c-1.guid.privatelink.eastus.azmk8s.io" || m.Cloister.Connection != "" {
		t.Errorf("%+v", m.Cloister)
	}
	if s, err := ConnectionState(t.Context(), documents(t), m); err != nil || s.Status != Approved {
		t.Errorf("%+v, %v", s, err)
	}
}

// client is resourcetype.Client over Documents.
type client struct {
	*providertest.Documents
	t    *testing.T
	puts []string
	gone bool
}

func (c *client) Put(_ context.Context, id resourceid.ID, _ string, body any) (string, error) {
	c.puts = append(c.puts, id.Name())
	c.Documents.Put(c.t, id.String(), body)
	return resourcestore.Succeeded, nil
}

func (c *client) Delete(_ context.Context, id resourceid.ID) (bool, error) {
	c.Remove(id.String())
	return c.gone, nil
}

func TestReconcile(t *testing.T) {
	d := documents(t)
	m, err := put(t, d, true, id, create)
	if err != nil {
		t.Fatal(err)
	}
	w := &providertest.World{}
	c := &client{Documents: d, t: t}
	r := &resourcetype.Reconciliation[Model]{
		ID: resourceid.MustParse(id), Model: m, Client: c, Step: func(string) {},
		Save: func(context.Context) error { d.Put(t, id, m); return nil },
	}
	spec := Spec(w, roles(true))
	if res, err := spec.Reconcile(t.Context(), r); err != nil || res.Waiting || w.Syncs != 1 || len(c.puts) != 2 {
		t.Fatalf("%+v, %v, %v", res, err, c.puts)
	}
	// A connection that the owner removed is not made again.
	d.Remove(m.Cloister.Connection)
	if _, err := spec.Reconcile(t.Context(), r); err != nil || len(c.puts) != 3 {
		t.Errorf("%v, %v", err, c.puts)
	}
	r.Deleting = true
	if res, err := spec.Reconcile(t.Context(), r); err != nil || !res.Waiting {
		t.Errorf("%+v, %v", res, err)
	}
	c.gone = true
	if res, err := spec.Reconcile(t.Context(), r); err != nil || res.Waiting || w.Syncs != 3 {
		t.Errorf("%+v, %v", res, err)
	}
	w.Err = errors.New("no route")
	if _, err := spec.Reconcile(t.Context(), r); !errors.Is(err, w.Err) {
		t.Errorf("%v", err)
	}
}
