//! libp2p's TLS 1.3 with a choice of ciphers: AES first where the CPU has it.
//!
//! On the wire it is what `libp2p-tls` speaks (<https://github.com/libp2p/specs/blob/master/tls/tls.md>),
//! which always puts ChaCha20 first. The certificates are its; the provider is ring, which needs no
//! time to gather entropy at the start.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::{AsyncRead, AsyncWrite};
use futures_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use futures_rustls::rustls::client::{ClientConfig, ResolvesClientCert};
use futures_rustls::rustls::crypto::ring::{self, cipher_suite};
use futures_rustls::rustls::crypto::{CryptoProvider, SupportedKxGroup};
use futures_rustls::rustls::pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName, UnixTime};
use futures_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use futures_rustls::rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use futures_rustls::rustls::sign::CertifiedKey;
use futures_rustls::rustls::version::TLS13;
use futures_rustls::rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    SignatureScheme,
};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::identity::Keypair;
use libp2p_tls::certificate;

/// The protocol's name in the negotiation.
pub const NAME: &str = "/tls/1.0.0";
const ALPN: &[u8] = b"libp2p";

/// Both sides of the handshake.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// `aes`: put AES before ChaCha20.
    ///
    /// # Errors
    /// The key cannot sign a certificate.
    pub fn new(key: &Keypair, aes: bool) -> Result<Tls, io::Error> {
        let (cert, private) = certificate::generate(key).map_err(io::Error::other)?;
        Tls::with(cert, &private, aes)
    }

    /// The same with a certificate and its key, whatever the one says.
    ///
    /// # Errors
    /// The key is of another kind than libp2p's.
    pub fn with(
        cert: CertificateDer<'static>,
        private: &PrivateKeyDer<'static>,
        aes: bool,
    ) -> Result<Tls, io::Error> {
        let signer = ring::sign::any_ecdsa_type(private).map_err(io::Error::other)?;
        let identity = Arc::new(Identity(Arc::new(CertifiedKey::new(vec![cert], signer))));
        let provider = Arc::new(provider(aes));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .dangerous() // libp2p's own rules for certificates, below
            .with_custom_certificate_verifier(Arc::new(Verifier))
            .with_client_cert_resolver(Arc::clone(&identity) as Arc<dyn ResolvesClientCert>);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_sni = false;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(Arc::new(Verifier))
            .with_cert_resolver(identity);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0; // sessions are not resumed
        Ok(Tls { client: Arc::new(client), server: Arc::new(server) })
    }

    pub async fn accept<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: C,
    ) -> io::Result<(PeerId, TlsStream<C>)> {
        let stream = TlsAcceptor::from(Arc::clone(&self.server)).accept(socket).await?;
        Ok((peer_id(stream.get_ref().1)?, stream.into()))
    }

    pub async fn connect<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: C,
    ) -> io::Result<(PeerId, TlsStream<C>)> {
        // The specification wants no server name; an address is never sent as one.
        let name = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        let stream = TlsConnector::from(Arc::clone(&self.client)).connect(name, socket).await?;
        Ok((peer_id(stream.get_ref().1)?, stream.into()))
    }
}

fn provider(aes: bool) -> CryptoProvider {
    use cipher_suite::{
        TLS13_AES_128_GCM_SHA256 as AES_128, TLS13_AES_256_GCM_SHA384 as AES_256,
        TLS13_CHACHA20_POLY1305_SHA256 as CHACHA,
    };
    let cipher_suites = if aes { vec![AES_128, AES_256, CHACHA] } else { vec![CHACHA, AES_256, AES_128] };
    let kx_groups: Vec<&'static dyn SupportedKxGroup> = ring::ALL_KX_GROUPS.to_vec();
    CryptoProvider { cipher_suites, kx_groups, ..ring::default_provider() }
}

fn peer_id(state: &CommonState) -> io::Result<PeerId> {
    let certs = state.peer_certificates().unwrap_or_default();
    let [cert] = certs else { return Err(io::Error::other("not exactly one certificate")) };
    Ok(certificate::parse(cert).map_err(io::Error::other)?.peer_id())
}

/// Our certificate, whatever is asked for.
#[derive(Debug)]
struct Identity(Arc<CertifiedKey>);

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Exactly one certificate, self-signed, whose extension binds it to the peer's identity key. Which
/// peer it is, is compared by the swarm.
#[derive(Debug)]
struct Verifier;

fn verify(cert: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    if !intermediates.is_empty() {
        return Err(Error::General("not exactly one certificate".into()));
    }
    match certificate::parse(cert) {
        Ok(_) => Ok(()),
        Err(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
    }
}

fn verify_signature(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let cert = certificate::parse(cert).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    cert.verify_signature(dss.scheme, message, dss.signature())
        .map_err(|_| Error::from(CertificateError::BadSignature))?;
    Ok(HandshakeSignatureValid::assertion())
}

/// TLS 1.2 is not offered; a peer that comes with its signatures is refused.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

fn schemes() -> Vec<SignatureScheme> {
    vec![
        SignatureScheme::ED25519,
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::RSA_PSS_SHA512,
        SignatureScheme::RSA_PSS_SHA384,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PKCS1_SHA512,
        SignatureScheme::RSA_PKCS1_SHA384,
        SignatureScheme::RSA_PKCS1_SHA256,
    ]
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify(cert, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        verify(cert, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
