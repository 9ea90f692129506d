//! Asks the admin listener whether the proxy is ready: one GET, status line only. Decides nothing on a refusal but
//! to ask again.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// The whole wait. Start-up takes well under a second; a loaded machine gets its time.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// For one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// `HTTP/1.1 200`
const STATUS_BYTES: usize = 12;

/// The proxy did not become ready.
#[derive(Debug, thiserror::Error)]
#[error("the proxy was not ready within {READY_WITHIN:?}: GET http://{admin}/ready {last}")]
pub struct NotReady {
    admin: SocketAddr,
    last: String,
}

/// Returns once `/ready` answers 200.
///
/// # Errors
/// [`NotReady`] after [`READY_WITHIN`].
pub async fn wait(admin: SocketAddr) -> Result<(), NotReady> {
    wait_within(admin, READY_WITHIN).await
}

async fn wait_within(admin: SocketAddr, within: Duration) -> Result<(), NotReady> {
    let deadline = Instant::now() + within;
    loop {
        let last = match timeout(ANSWER_WITHIN, status(admin)).await {
            Ok(Ok(200)) => return Ok(()),
            Ok(Ok(other)) => format!("answered {other}"),
            Ok(Err(error)) => format!("failed: {error}"),
            Err(_) => format!("gave no answer within {ANSWER_WITHIN:?}"),
        };
        if Instant::now() >= deadline {
            return Err(NotReady { admin, last });
        }
        sleep(ASK_EVERY).await;
    }
}

async fn status(admin: SocketAddr) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(admin).await?;
    let question = format!("GET /ready HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut head = [0_u8; STATUS_BYTES];
    stream.read_exact(&mut head).await?;
    std::str::from_utf8(&head[9..])
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Answers each connection with the next of `answers`, then with the last one.
    async fn admin(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            for turn in 0.. {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let mut request = [0_u8; 256];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answers[answers.len().min(turn + 1) - 1].as_bytes()).await;
            }
        });
        addr
    }

    #[tokio::test]
    async fn it_asks_again_until_200() {
        let addr = admin(&["HTTP/1.1 503 x\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]).await;
        wait_within(addr, Duration::from_secs(5)).await.expect("the second answer is yes");
    }

    #[tokio::test]
    async fn the_wait_is_bounded_and_tells_the_last_answer() {
        let addr = admin(&["HTTP/1.1 503 x\r\n\r\n"]).await;
        let error = wait_within(addr, Duration::from_millis(120)).await.expect_err("never ready").to_string();
        assert!(error.ends_with("/ready answered 503"), "says what it saw: {error}");
    }
}
