package app

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
	"github.com/cloister-dev/cloister/internal/lib/layout"
)

// Instance is who an installation is: made once, the first thing written to its data directory.
type Instance struct {
	ID             string `json:"id"` // six hexadecimal digits, in everything that is global on the machine
	TenantID       string `json:"tenantId"`
	SubscriptionID string `json:"subscriptionId"`
	// Administrator is the principal of whoever may use the Unix socket: the first Owner of the subscription.
	Administrator ServicePrincipal `json:"administrator"`
	// User is the same person as a user, who logs in by a password or approves a device's code; as much an Owner.
	User UserAccount `json:"user"`
	// AKS is the first-party principal as which the AKS service calls the other providers.
	AKS ServicePrincipal `json:"aks"`
}

// ServicePrincipal is an application's identity in the tenant.
type ServicePrincipal struct {
	Name     string `json:"name"`
	AppID    string `json:"appId"`
	ObjectID string `json:"objectId"`
	// Secret is the client secret that az, Terraform and SDKs log in with; the file is 0600.
	Secret string `json:"secret,omitempty"`
}

// UserAccount is a person's identity in the tenant.
type UserAccount struct {
	ObjectID string `json:"objectId"`
	Name     string `json:"name"` // user principal name
	Password string `json:"password"`
}

// aksAppID is the application ID of "Azure Kubernetes Service" in every Azure tenant.
const aksAppID = "7319c514-987d-4e9b-ac3d-d38c4f427f4c"

func instancePath(dataDir string) string { return filepath.Join(dataDir, "instance.json") }

// LoadInstance reads the installation in the data directory. It returns os.ErrNotExist, wrapped, when there is none.
func LoadInstance(dataDir string) (Instance, error) {
	data, err := os.ReadFile(instancePath(dataDir))
	if err != nil {
		return Instance{}, err
	}
	var in Instance
	if err := json.Unmarshal(data, &in); err != nil || in.ID == "" {
		return Instance{}, fmt.Errorf("%s is damaged (%v): restore it, or start anew with `cloister down --purge`", instancePath(dataDir), err)
	}
	return in, nil
}

// EnsureInstance returns the installation in the data directory, making one in an empty or missing directory.
func EnsureInstance(dataDir string) (Instance, error) {
	in, err := LoadInstance(dataDir)
	if err == nil && in.User.ObjectID == "" { // made before there was a user
		in.User = newUser()
		return in, atomicfile.WriteJSON(instancePath(dataDir), in, 0o600)
	}
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return in, err
	}
	entries, err := os.ReadDir(dataDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Instance{}, err
	}
	if len(entries) > 0 {
		return Instance{}, fmt.Errorf("%s holds files but no instance.json: it is a half-deleted or a foreign data directory; remove it, or name another with --data-dir", dataDir)
	}
	in = Instance{
		ID: randomHex(3), TenantID: uuid.NewString(), SubscriptionID: uuid.NewString(),
		Administrator: ServicePrincipal{Name: "cloister-administrator", AppID: uuid.NewString(), ObjectID: uuid.NewString(), Secret: randomHex(24)},
		User:          newUser(),
		AKS:           ServicePrincipal{Name: "Azure Kubernetes Service", AppID: aksAppID, ObjectID: uuid.NewString()},
	}
	return in, atomicfile.WriteJSON(instancePath(dataDir), in, 0o600)
}

// login is what a client needs to be the administrator.
func (in Instance) login() *adminapi.Login {
	return &adminapi.Login{
		TenantID: in.TenantID, SubscriptionID: in.SubscriptionID, ClientID: in.Administrator.AppID, ClientSecret: in.Administrator.Secret,
		Username: in.User.Name, Password: in.User.Password,
	}
}

// tenantDomain is the name of every installation's tenant.
const tenantDomain = "cloister.onmicrosoft.com"

func newUser() UserAccount {
	return UserAccount{ObjectID: uuid.NewString(), Name: "administrator@" + tenantDomain, Password: randomHex(24)}
}

// Layout is where the installation's files are.
func (in Instance) Layout(dataDir, cacheDir string) layout.Layout {
	return layout.New(dataDir, cacheDir, in.ID)
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// RegistryPassword is a password of a registry's admin user, the how manieth of its first or second slot. It follows
// from a secret of the installation, so that no document holds it; a registry made again under the name has others.
func (in Instance) RegistryPassword(id resourceid.ID, created string, slot, generation int) string {
	mac := hmac.New(sha256.New, []byte(in.Administrator.Secret))
	fmt.Fprintf(mac, "registry admin\n%s\n%s\n%d\n%d", id.Key(), created, slot, generation)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
