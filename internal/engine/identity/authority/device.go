package authority

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"sync"
	"time"
)

// Device codes: how many may wait at once, how long, and how often a client may ask.
const (
	maxDevices     = 1000
	deviceLifetime = 15 * time.Minute
	deviceInterval = 1 * time.Second
)

// ErrUnknownCode is returned for a user code that nobody waits for.
var ErrUnknownCode = errors.New("no device waits with this code, or it has expired")

// Device is a device code login that waits for a principal's approval.
type Device struct {
	UserCode string
	Client   string
	Expires  time.Time
}

type device struct {
	Device
	target    grant  // what the token is for: the client says so now and not when it redeems the code
	principal string // object ID, once approved
	denied    bool
}

type devices struct {
	now func() time.Time

	mu     sync.Mutex
	byCode map[string]*device // by device code
}

func newDevices(now func() time.Time) *devices {
	return &devices{now: now, byCode: map[string]*device{}}
}

// start makes a code pair, and forgets what has expired.
func (d *devices) start(client string, target grant) (code string, _ Device, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	for code, waiting := range d.byCode {
		if now.After(waiting.Expires) {
			delete(d.byCode, code)
		}
	}
	if len(d.byCode) >= maxDevices {
		return "", Device{}, oauth(http.StatusTooManyRequests, "temporarily_unavailable", 90033, "Too many devices are waiting to be signed in.")
	}
	// Letters that are not taken for others, as RFC 8628 section 6.1 asks.
	const alphabet = "BCDFGHJKLMNPQRSTVWXZ23456789"
	random := make([]byte, 9)
	rand.Read(random)
	user := make([]byte, len(random))
	for i, b := range random {
		user[i] = alphabet[int(b)%len(alphabet)]
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	code = base64.RawURLEncoding.EncodeToString(secret)
	waiting := &device{Device: Device{UserCode: string(user), Client: client, Expires: now.Add(deviceLifetime)}, target: target}
	d.byCode[code] = waiting
	return code, waiting.Device, nil
}

// take returns the login that was approved, once.
func (d *devices) take(code, client string) (*device, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	waiting, ok := d.byCode[code]
	switch {
	case !ok || d.now().After(waiting.Expires):
		delete(d.byCode, code)
		return nil, oauth(http.StatusBadRequest, "expired_token", 70020, "The provided value for the input parameter 'device_code' is not valid. This device code has expired.")
	case !strings.EqualFold(waiting.Client, client):
		return nil, oauth(http.StatusBadRequest, "invalid_grant", 700005, "Provided device code is intended to use against other client.")
	case waiting.denied:
		delete(d.byCode, code)
		return nil, oauth(http.StatusBadRequest, "authorization_declined", 70019, "Verification code expired or was declined.")
	case waiting.principal == "":
		return nil, oauth(http.StatusBadRequest, "authorization_pending", 70016, "OAuth 2.0 device flow error. Authorization is pending. Continue polling.")
	}
	delete(d.byCode, code)
	return waiting, nil
}

func (d *devices) decide(userCode string, fn func(*device)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, waiting := range d.byCode {
		if strings.EqualFold(waiting.UserCode, strings.TrimSpace(userCode)) && d.now().Before(waiting.Expires) {
			fn(waiting)
			return nil
		}
	}
	return ErrUnknownCode
}

// PendingDevices are the logins that wait for ApproveDevice, the oldest first.
func (a *Authority) PendingDevices() []Device {
	a.devices.mu.Lock()
	defer a.devices.mu.Unlock()
	var pending []Device
	for _, d := range a.devices.byCode {
		if d.principal == "" && !d.denied && a.Now().Before(d.Expires) {
			pending = append(pending, d.Device)
		}
	}
	sort.Slice(pending, func(i, j int) bool { return pending[i].Expires.Before(pending[j].Expires) })
	return pending
}

// ApproveDevice lets the device with this user code act as the principal with this object ID. The caller
// has made sure that the principal agrees.
func (a *Authority) ApproveDevice(ctx context.Context, userCode, objectID string) error {
	p, err := a.Directory.Principal(ctx, objectID)
	if err != nil {
		return fmt.Errorf("approve a device: %w", err)
	}
	return a.devices.decide(userCode, func(d *device) { d.principal = p.ObjectID })
}

// DenyDevice refuses the device with this user code.
func (a *Authority) DenyDevice(userCode string) error {
	return a.devices.decide(userCode, func(d *device) { d.denied = true })
}

// deviceCode is the device authorization endpoint.
func (a *Authority) deviceCode(r *http.Request) (any, error) {
	if err := a.tenant(r); err != nil {
		return nil, err
	}
	if err := r.ParseForm(); err != nil {
		return nil, oauth(http.StatusBadRequest, "invalid_request", 900144, "The request body must be a form: %v.", err)
	}
	client, err := require(r.PostForm, "client_id")
	if err != nil {
		return nil, err
	}
	var target grant
	if err := target.target(r.PostForm, deviceGrant); err != nil {
		return nil, err
	}
	code, d, err := a.devices.start(client, target)
	if err != nil {
		return nil, err
	}
	uri := base(r) + "/device"
	return map[string]any{
		"user_code": d.UserCode, "device_code": code, "verification_uri": uri,
		"expires_in": int(deviceLifetime / time.Second), "interval": int(deviceInterval / time.Second),
		"message": fmt.Sprintf("To sign in, use a web browser to open the page %s and enter the code %s to authenticate.", uri, d.UserCode),
	}, nil
}

func (a *Authority) redeemDevice(ctx context.Context, g *grant, form url.Values) error {
	code := form.Get("device_code")
	if code == "" {
		// MSAL sends both names; the v1 endpoint knows this one.
		code = form.Get("code")
	}
	if code == "" {
		_, err := require(form, "device_code")
		return err
	}
	approved, err := a.devices.take(code, g.client)
	if err != nil {
		return err
	}
	g.audience, g.scopes, g.v1 = approved.target.audience, approved.target.scopes, approved.target.v1
	g.principal, err = a.Directory.Principal(ctx, approved.principal)
	if errors.Is(err, ErrNotFound) {
		return oauth(http.StatusBadRequest, "invalid_grant", 50020, "User account does not exist in tenant '%s' any more.", a.TenantID)
	}
	return err
}

// devicePage is where a user approves a device. It keeps no session: the password comes with each form, so
// no other site can submit one for somebody.
const devicePage = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in to a device</title>
<h1>Sign in to a device</h1>
<p>%s</p>
<form method="post" autocomplete="off">
<p><label>Code <input name="user_code" required></label></p>
<p><label>User name <input name="username" required></label></p>
<p><label>Password <input name="password" type="password" required></label></p>
<p><button>Sign in</button></p>
</form></html>
`

func (a *Authority) serveDevicePage(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'")
	if r.Method != http.MethodPost {
		fmt.Fprintf(w, devicePage, "Enter the code that the device shows.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	status, text := http.StatusOK, "The device is signed in. You may close this page."
	if err := a.approveByPassword(r); err != nil {
		status, text = http.StatusForbidden, "The code, the user name or the password is wrong."
		var refused *oauthError
		if !errors.As(err, &refused) && !errors.Is(err, ErrUnknownCode) {
			a.Log.ErrorContext(r.Context(), "device sign-in failed", "error", err)
			status, text = http.StatusInternalServerError, "The sign-in failed. Please try again."
		}
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, devicePage, text)
}

func (a *Authority) approveByPassword(r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return oauth(http.StatusBadRequest, "invalid_request", 900144, "The request body must be a form: %v.", err)
	}
	var g grant
	if err := a.password(r.Context(), &g, r.PostForm); err != nil {
		return err
	}
	return a.ApproveDevice(r.Context(), r.PostForm.Get("user_code"), g.principal.ObjectID)
}
