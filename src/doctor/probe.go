package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"cis490/src/code"
	"cis490/src/config"
	"cis490/src/identity"
	"cis490/src/state"
	"cis490/src/transport"
	"cis490/src/version"
	"cis490/src/wire"
)

// probe is what came of asking the receiver who this host is, over the way that
// the shipper takes: each step, and where it ended.
type probe struct {
	name      string // host of receiver.url
	addr      string // and port
	literal   bool   // the host is an address
	proxy     string // an HTTP proxy in between
	anonymous bool   // asked without the host key, which could not be read or is not there
	looked    time.Duration
	dns       *code.Error
	connected time.Duration
	shaken    time.Duration // the TLS handshake
	conn      *code.Error   // no connection, or a silent one
	peer      *x509.Certificate
	tls       *code.Error
	plain     bool // no TLS is asked for
	http      *code.Error
	answered  bool // the receiver itself spoke
	self      *wire.Self
	server    time.Time     // the receiver's clock
	skew      time.Duration // it minus ours
	round     time.Duration // of the request alone
	stranger  *code.Error   // host-unknown or host-revoked, when the key was shown
}

// slow is what a connection and an answer may take.
const slow = time.Second

// well says that the receiver answered and knows this host, as far as was asked.
func (p probe) well() bool {
	return p.dns == nil && p.conn == nil && p.tls == nil && p.http == nil && p.answered && p.stranger == nil
}

// ask asks the receiver: GET /v1/hosts/self, or, without a host key, /healthz.
func ask(ctx context.Context, cfg config.LabHost) probe {
	u := cfg.Receiver.URL
	p := probe{name: u.Hostname(), addr: u.Host, plain: u.Scheme == "http", literal: net.ParseIP(u.Hostname()) != nil}
	var id *identity.Client
	if !p.plain {
		if id = client(ctx, cfg); id == nil {
			id, p.anonymous = identity.NewAnonymous(cfg.Receiver.CAFile, cfg.Receiver.Name()), true
		}
	}
	var conf *tls.Config
	if id != nil {
		conf = id.Config()
	}
	p.request(ctx, cfg, id, conf)
	if p.tls != nil && p.tls.Code == code.TLSExpired {
		// Whose clock is wrong? The receiver's own tells.
		t := probe{name: p.name, addr: p.addr, literal: p.literal, anonymous: p.anonymous}
		t.request(ctx, cfg, id, id.TimelessConfig())
		p.server, p.skew, p.round = t.server, t.skew, t.round
	}
	return p
}

// diskPatience is how long the host key's disk may take: one that hangs must not
// hide how the receiver is.
const diskPatience = 700 * time.Millisecond

// client is this host as the receiver knows it, nil when the key can't be had.
func client(ctx context.Context, cfg config.LabHost) *identity.Client {
	ctx, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	key := later(func(context.Context) *identity.Client {
		cert, _, err := identity.LoadHostKey(filepath.Join(cfg.DataDir, "identity"))
		if err != nil {
			return nil // the row of the host key says why
		}
		id, err := identity.NewClient(cert, cfg.Receiver.CAFile, cfg.Receiver.Name())
		if err != nil {
			return nil
		}
		return id
	})
	id, _ := key.get(ctx)
	return id
}

// request makes one request and notes each step of it.
func (p *probe) request(ctx context.Context, cfg config.LabHost, id *identity.Client, conf *tls.Config) {
	began := time.Now()
	// Written by the transport's goroutines, which may outlive the request.
	var looked, connected, shaken, wrote atomic.Int64
	trace := &httptrace.ClientTrace{
		DNSDone:      func(i httptrace.DNSDoneInfo) { looked.Store(int64(time.Since(began)) | 1) },
		ConnectStart: func(string, string) { looked.CompareAndSwap(0, int64(time.Since(began))|1) },
		ConnectDone: func(_, _ string, err error) {
			if err == nil {
				connected.Store(int64(time.Since(began)) | 1)
			}
		},
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				shaken.Store(int64(time.Since(began)) | 1)
			}
		},
		WroteRequest: func(httptrace.WroteRequestInfo) { wrote.Store(int64(time.Since(began)) | 1) },
	}
	var peer atomic.Pointer[x509.Certificate]
	if conf != nil {
		verify := conf.VerifyConnection
		conf.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) > 0 {
				peer.Store(s.PeerCertificates[0])
			}
			return verify(s)
		}
	}
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
		DialContext: (&net.Dialer{}).DialContext, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	defer t.CloseIdleConnections()
	to := *cfg.Receiver.URL
	to.Path, to.RawPath, to.RawQuery = wire.PathSelf, "", ""
	if p.anonymous {
		// A stranger's question would be a refusal in the receiver's journal.
		to.Path = wire.PathHealth
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, to.String(), nil)
	if err != nil {
		p.http = code.New(code.Unreachable, "%s", err)
		return
	}
	req.Header.Set("User-Agent", "cis490-doctor/"+version.String())
	if via, err := http.ProxyFromEnvironment(req); err == nil && via != nil {
		p.proxy = via.Host
	}
	resp, err := t.RoundTrip(req)
	p.looked, p.peer = time.Duration(looked.Load()), peer.Load()
	if c := connected.Load(); c > 0 {
		p.connected = time.Duration(c) - p.looked
		p.shaken = max(0, time.Duration(shaken.Load()-c))
	}
	if err != nil {
		p.failed(ctx, transport.Classify(err, id, p.addr), connected.Load() > 0, shaken.Load() > 0 || p.plain && connected.Load() > 0)
		return
	}
	defer resp.Body.Close()
	p.round = time.Since(began) - time.Duration(max(wrote.Load(), 0))
	now := time.Now()
	if p.anonymous && resp.StatusCode == http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 100))
		at, derr := http.ParseTime(resp.Header.Get("Date"))
		if err != nil || string(body) != "ok\n" {
			p.http = code.New(code.ReceiverError, "status 200, but not the receiver's word: something else answers there")
			return
		}
		p.answered = true
		if derr == nil {
			p.told(at.Add(time.Second/2), now) // Date has whole seconds
		}
		return
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		var self wire.Self
		if err := wire.ReadJSON(resp.Body, &self); err != nil || self.ServerTime.IsZero() {
			p.http = code.New(code.ReceiverError, "status %d, but no description of this host: something else than the receiver answers there", resp.StatusCode)
			return
		}
		p.answered, p.self = true, &self
		p.told(self.ServerTime, now)
		return
	}
	v := transport.Refused(resp)
	p.answered = v.Answered
	if v.Answered {
		p.told(v.Problem.ServerTime, now)
	}
	switch {
	case v.Answered && (v.Why.Code == code.HostUnknown || v.Why.Code == code.HostRevoked):
		p.stranger = v.Why
	case v.Answered && v.Why.Code == code.ClockSkew:
	default:
		p.http = v.Why
	}
}

// told notes the receiver's clock. It read it somewhere in the middle of the exchange.
func (p *probe) told(server, now time.Time) {
	if server.IsZero() {
		return
	}
	p.server = server
	p.skew = server.Sub(now.Round(0).Add(-p.round / 2))
}

// failed notes at which step there was an end.
func (p *probe) failed(ctx context.Context, why *code.Error, connected, shaken bool) {
	if ctx.Err() != nil {
		// What ended it is our own patience.
		why = code.New(code.TimedOut, "no connection within %s: packets are dropped on the way", (each - 200*time.Millisecond))
		if connected {
			why = code.New(code.TimedOut, "it accepts connections and says nothing within %s", (each - 200*time.Millisecond))
		}
	}
	switch why.Code {
	case code.DNSFailed:
		p.dns = why
	case code.TLSUntrusted, code.TLSExpired, code.TLSWrongName:
		p.tls = why
	case code.HostUnknown:
		p.answered, p.stranger = true, why
	default:
		if ctx.Err() != nil && p.looked == 0 && !p.literal && !connected {
			p.dns = code.New(code.DNSFailed, "the resolver did not answer within %s", each)
			return
		}
		if shaken {
			p.http = why
			return
		}
		p.conn = why
	}
}

func (p probe) dnsRow(cfg config.LabHost) Finding {
	switch {
	case p.dns != nil:
		return red("the receiver's name "+p.name+" does not resolve", p.dns.Detail,
			"getent hosts "+quote(p.name)+"; a wrong name: receiver.url in "+cfg.File+"; on NixOS: services.cis490.labHost.settings.receiver.url, or networking.hosts")
	case p.literal:
		return green("receiver.url has an address, no name")
	case p.proxy != "":
		return green("the proxy %s looks names up", p.proxy)
	case p.looked > slow:
		return yellow(fmt.Sprintf("the receiver's name took %s to resolve", p.looked.Round(time.Millisecond)), "", "cat /etc/resolv.conf: a server that is listed first and does not answer looks like this")
	}
	return green("%s resolves", p.name)
}

func (p probe) receiverRow(cfg config.LabHost) Finding {
	to := p.addr
	if p.proxy != "" {
		to += " (by the proxy " + p.proxy + ")"
	}
	if p.conn != nil {
		fix := "on the receiver: systemctl start cis490-receiver; else check receiver.url in " + cfg.File
		switch p.conn.Code {
		case code.TimedOut:
			fix = "look for a firewall that drops packets, and for the route: ip route get " + quote(p.name) + "; on the receiver: systemctl status cis490-receiver; the port that it listens on has to be open (NixOS: services.cis490.receiver.openFirewall = true)"
		case code.Cut:
			fix = "something closes connections on the way: a proxy, or another server at receiver.url in " + cfg.File
		}
		return red("the receiver at "+to+" can't be reached: "+p.conn.Code.Info().Title, p.conn.Detail, fix)
	}
	if p.connected+p.shaken+p.round > slow {
		return yellow(fmt.Sprintf("the receiver at %s is slow: connected in %s, TLS in %s, answered in %s", to, p.connected.Round(time.Millisecond), p.shaken.Round(time.Millisecond), p.round.Round(time.Millisecond)), "",
			"look at the link: ping -c5 "+quote(p.name)+"; on the receiver: cis490-doctor")
	}
	return green("%s is reached in %s", to, p.connected.Round(100*time.Microsecond))
}

// clockRow judges the clocks; most is the receiver's max_skew as the shipper was
// told it, in seconds, 0 when it was not.
func (p probe) clockRow(most float64) Finding {
	limit := time.Duration(most * float64(time.Second))
	if p.self != nil && p.self.MaxSkew > 0 {
		limit = p.self.MaxSkew
	}
	if limit <= 0 {
		limit = 5 * time.Minute // max_skew's default
	}
	if p.server.IsZero() {
		return unknown("the receiver's clock is not known", "it gave no time: see the rows certificate and answer", "cis490-doctor --only certificate,answer").after("ca", "certificate", "answer")
	}
	off := p.skew.Abs()
	at := fmt.Sprintf("the receiver says %s, this host %s; max_skew is %s", p.server.UTC().Format(time.RFC3339), p.server.Add(-p.skew).UTC().Format(time.RFC3339), config.FormatDuration(limit))
	which := "behind"
	if p.skew < 0 {
		which = "ahead of"
	}
	const fix = "on the host whose clock is wrong: timedatectl set-ntp true; on NixOS: services.timesyncd.enable = true"
	switch {
	case off > limit+p.round/2:
		return red(fmt.Sprintf("this host's clock is %s %s the receiver's", state.Span(off), which), at, fix)
	case off > limit/2+p.round/2:
		return yellow(fmt.Sprintf("this host's clock is %s %s the receiver's, more than half of what it tolerates", state.Span(off), which), at, fix)
	}
	return green("this host's clock is %s from the receiver's", off.Round(time.Millisecond))
}

// soon is when a certificate that expires is worth a word.
const soon = 14 * 24 * time.Hour

func caRow(file, scheme string, now time.Time) Finding {
	const copyIt = "copy the receiver's ca/ca.crt (cis490-receiver ca init prints where it is there) to "
	switch {
	case scheme == "http":
		return green("receiver.url asks for no TLS, so there is no CA")
	case file == "":
		return green("the authorities that this machine trusts are used")
	}
	certs, err := identity.LoadCerts(file)
	onNix := "; on NixOS: services.cis490.labHost.caFile"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return red("the receiver's CA, "+file+", is not there", err.Error(), copyIt+quote(file)+onNix)
	case errors.Is(err, fs.ErrPermission):
		if os.Geteuid() != 0 {
			return unknown("may not read "+file, err.Error(), "it is public: chmod 644 "+quote(file))
		}
		return red("the receiver's CA can't be read", err.Error(), "chmod 644 "+quote(file))
	case err != nil:
		return red("the receiver's CA, "+file+", holds no certificate", firstLine(err.Error()), copyIt+quote(file)+onNix)
	}
	last := certs[0]
	for _, c := range certs {
		if c.NotAfter.After(last.NotAfter) {
			last = c
		}
	}
	at := fmt.Sprintf("%s, %s, until %s", last.Subject, identity.Fingerprint(last), last.NotAfter.UTC().Format(time.RFC3339))
	switch {
	case now.After(last.NotAfter):
		return red("the receiver's CA has expired", at, copyIt+quote(file)+onNix)
	case now.Add(soon).After(last.NotAfter):
		return yellow("the receiver's CA expires in "+state.Span(last.NotAfter.Sub(now)), at, copyIt+quote(file)+onNix)
	}
	return green("%s holds %d certificate(s)", file, len(certs))
}

func (p probe) certificateRow(cfg config.LabHost, now time.Time) Finding {
	if p.plain {
		return green("receiver.url asks for no TLS")
	}
	if p.tls != nil {
		switch p.tls.Code {
		case code.TLSExpired:
			return red("the receiver's certificate is not valid at this time", p.tls.Detail, "on the receiver: systemctl restart cis490-receiver issues a new one; one from a file (services.cis490.receiver.certFile) has to be renewed")
		case code.TLSWrongName:
			return red("the receiver's certificate is for another name than "+cfg.Receiver.Name(), p.tls.Detail,
				"use one of those names in receiver.url of "+cfg.File+", or set receiver.server_name there to one of them, or add "+cfg.Receiver.Name()+" to tls.names in receiver.hcl; then: systemctl reload cis490-shipper")
		}
		ca := cfg.Receiver.CAFile
		if ca == "" {
			return red("the receiver's certificate is not trusted", p.tls.Detail, "copy the receiver's ca/ca.crt here and set receiver.ca_file in "+cfg.File+" to it")
		}
		return red("the receiver's certificate is not trusted: it is not of the CA in "+ca, p.tls.Detail,
			"if the receiver's CA was changed on purpose, copy its ca/ca.crt to "+quote(ca)+" (NixOS: services.cis490.labHost.caFile); else somebody else answers at "+p.addr)
	}
	if p.peer == nil {
		return unknown("the receiver's certificate was not seen", "no handshake came about", "cis490-doctor --only receiver")
	}
	left := p.peer.NotAfter.Sub(now)
	if left < soon {
		return yellow("the receiver's certificate expires in "+state.Span(left), "until "+p.peer.NotAfter.UTC().Format(time.RFC3339), "renew it on the receiver; its own CA's is renewed by itself: systemctl restart cis490-receiver")
	}
	return green("the receiver's certificate is trusted, and valid for %s", state.Span(left))
}

func (p probe) answerRow(cfg config.LabHost) Finding {
	if p.http == nil && p.answered {
		return green("the receiver answers in %s", p.round.Round(100*time.Microsecond))
	}
	if p.http == nil {
		return unknown("the receiver was not asked", "no connection came about", "cis490-doctor --only receiver,certificate")
	}
	fix := p.http.Code.Info().Fix
	switch p.http.Code {
	case code.ReceiverError, code.Cut:
		fix = "check receiver.url in " + cfg.File + " and the proxy, if there is one: it must pass /v1/ to cis490-receiver; on the receiver: systemctl status cis490-receiver; journalctl -u cis490-receiver -p err"
	}
	return red("the receiver does not answer at "+p.addr+": "+p.http.Code.Info().Title, p.http.Detail, fix)
}

// registrationRow judges whether the receiver knows this host.
func (p probe) registrationRow(cfg config.LabHost, s read[state.Shipper]) Finding {
	key := s.v.Key
	known, stranger := "", p.stranger
	switch {
	case p.self != nil:
		known = p.self.Host
	case stranger != nil:
	case s.err == nil && s.v.Path.Held && (s.v.Path.Code == code.HostUnknown || s.v.Path.Code == code.HostRevoked):
		stranger = code.New(s.v.Path.Code, "%s", s.v.Path.Detail)
	case s.err == nil && s.v.Poll.LastSuccess != nil:
		known = s.v.Poll.KnownAs // the shipper's own word: the key is not ours to read
	default:
		return unknown("whether the receiver knows this host can't be seen", "the host key can't be read by this user, and the shipper has not heard from the receiver", "sudo cis490-doctor")
	}
	if key == "" && p.self != nil {
		key = p.self.Key
	}
	if key == "" {
		key = "KEY (cis490-shipper status shows it)"
	}
	switch {
	case stranger != nil && stranger.Code == code.HostRevoked:
		return red("the receiver's operator has revoked this host", stranger.Detail, "if it may ship again, on the receiver: cis490-receiver hosts allow "+cfg.Host+" "+key)
	case stranger != nil:
		return red("the receiver does not know this host", stranger.Detail, "on the receiver: cis490-receiver hosts allow "+cfg.Host+" "+key)
	case known != cfg.Host:
		return red("the receiver knows this host as "+known+", and here it is "+cfg.Host, "episodes say the name under which they were made; the receiver refuses those with another as malformed",
			"set host = \""+known+"\" in "+cfg.File+" (NixOS: services.cis490.labHost.settings.host) and systemctl restart cis490-shipper; or on the receiver: cis490-receiver hosts allow "+cfg.Host+" "+key)
	}
	return green("the receiver knows this host as %s", known)
}

// windowRow judges whether an episode that ends now would be let in.
func (p probe) windowRow(told state.Poll) Finding {
	w, now := told.Window, p.server
	if p.self != nil {
		w = &p.self.Window
	}
	if w == nil || now.IsZero() {
		return unknown("the receiver's window is not known", "only a host that it knows is told", "sudo cis490-doctor")
	}
	if why, ok := w.Admits(now.Add(-time.Minute), now, now); !ok {
		return red("the receiver's window lets nothing in that ends now", "an episode that "+why, "on the receiver: the window block of receiver.hcl (NixOS: services.cis490.receiver.settings.window), then: systemctl reload cis490-receiver")
	}
	return green("the receiver's window lets in what ends now")
}

// apart is how far the dates of two versions may be from each other.
const apart = 180 * 24 * time.Hour

// versionsRow compares versions that begin with a date, as packages' do.
func (p probe) versionsRow(s state.Shipper) Finding {
	theirs := s.Poll.ReceiverVersion
	if p.self != nil {
		theirs = p.self.ReceiverVersion
	}
	ours := s.Version
	if ours == "" {
		ours = version.String()
	}
	if theirs == "" {
		return unknown("the receiver's version is not known", "only a host that it knows is told", "sudo cis490-doctor").after("registration")
	}
	a, err1 := time.Parse("20060102", strings.SplitN(ours, ".", 2)[0])
	b, err2 := time.Parse("20060102", strings.SplitN(theirs, ".", 2)[0])
	at := "host " + ours + ", receiver " + theirs
	if err1 == nil && err2 == nil && a.Sub(b).Abs() > apart {
		which := "this host's"
		if b.Before(a) {
			which = "the receiver's"
		}
		return yellow("the versions are "+state.Span(a.Sub(b).Abs())+" apart; "+which+" is the older", at, "update it: nix flake update cis490 && nixos-rebuild switch")
	}
	return green("%s", at)
}

// hostKey is what can be seen of identity/host.key.
type hostKey struct {
	file string
	err  error // of loading it
	stat error
	mode fs.FileMode
	key  string
}

func lookAtKey(dataDir string) hostKey {
	dir := filepath.Join(dataDir, "identity")
	k := hostKey{file: filepath.Join(dir, identity.HostKeyFile)}
	st, err := os.Stat(k.file)
	if err != nil {
		k.stat = err
		return k
	}
	k.mode = st.Mode()
	_, k.key, k.err = identity.LoadHostKey(dir)
	return k
}

// hostKeyRow judges the host key; used is the one that the running shipper has.
func hostKeyRow(cfg config.LabHost, k hostKey, used string) Finding {
	switch {
	case cfg.Receiver.URL.Scheme == "http":
		return green("receiver.url asks for no TLS, so no key is shown")
	case errors.Is(k.stat, fs.ErrPermission), errors.Is(k.err, fs.ErrPermission):
		return unknown("may not look at the host key", "it is for the shipper's user alone, as it should be", "sudo cis490-doctor")
	case errors.Is(k.stat, fs.ErrNotExist):
		return red("the host key "+k.file+" is gone", "the shipper, while it runs, still has it: "+used, "restore it from a backup; or have a new one made (systemctl restart cis490-shipper) and on the receiver: cis490-receiver hosts allow "+cfg.Host+" KEY, the key that cis490-shipper status shows then")
	case k.stat != nil:
		return red("the host key can't be looked at", k.stat.Error(), "journalctl -k -p err -n 20")
	case k.mode.Perm()&0o077 != 0:
		return red(fmt.Sprintf("the host key can be read by others: its mode is %04o", k.mode.Perm()), k.file, "chmod 600 "+quote(k.file))
	case k.err != nil:
		return red("the host key can't be used", firstLine(k.err.Error()), "restore "+k.file+" from a backup; or: mv "+quote(k.file)+" "+quote(k.file+".bad")+" && systemctl restart cis490-shipper, and let the receiver know the new key")
	case used != "" && k.key != used:
		return red("the host key was replaced while the shipper runs", "on disk "+k.key+", in use "+used, "systemctl restart cis490-shipper, and on the receiver: cis490-receiver hosts allow "+cfg.Host+" "+k.key)
	}
	return green("the host key is whole and for its owner alone")
}
