use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use pin_project_lite::pin_project;

use super::Step;
use crate::Result;

pin_project! {
    /// The stream behind [`PipelineExt::transform`](super::PipelineExt::transform).
    #[derive(Debug)]
    #[must_use = "streams do nothing unless polled"]
    pub struct Transform<S, F> {
        #[pin]
        inner: S,
        transform: F,
    }
}

impl<S, F> Transform<S, F> {
    pub(super) fn new(inner: S, transform: F) -> Self {
        Self { inner, transform }
    }
}

impl<S, T, U, F> Stream for Transform<S, F>
where
    S: Stream<Item = Result<Step<T>>>,
    F: FnMut(T) -> Result<U>,
{
    type Item = Result<Step<U>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        let transform = this.transform;
        this.inner.poll_next(cx).map(|next| {
            next.map(|step| {
                let Step { cursor, item } = step?;
                let item = item.map(transform).transpose()?;
                Ok(Step { cursor, item })
            })
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use crate::pipeline::testing::{Row, at};
    use crate::pipeline::{PipelineExt, Step};
    use crate::{Error, ErrorKind};

    #[tokio::test]
    async fn another_type_keeps_the_position_and_an_error_comes_through() {
        let rows = stream::iter([Ok(Row::new(1, 7)), Ok(Row::new(2, 8)), Ok(Row::new(3, 9))]);
        let mut texts = rows
            .steps()
            .keep(|row| row.key != 7)
            .transform(|row| match row.key {
                8 => Ok("eight"),
                _ => Err(Error::new(
                    ErrorKind::Corrupt,
                    "decode row",
                    "it is not eight",
                )),
            });
        assert_eq!(
            texts.next().await.unwrap().unwrap(),
            Step {
                cursor: at(1),
                item: None
            }
        );
        let eight = texts.next().await.unwrap().unwrap();
        assert_eq!(
            eight,
            Step {
                cursor: at(2),
                item: Some("eight")
            }
        );
        assert_eq!(
            texts.next().await.unwrap().unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        assert!(texts.next().await.is_none());
    }
}
